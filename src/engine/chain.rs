//! How far a node is: its units of work, one after the other, and the results of those that are done.
//! Knows Actions that are not bound, and results; looks nothing up.

use std::borrow::Cow;

use impasto_stages::action::ActionTemplate;
use impasto_store::claim::Outputs;

use crate::engine::graph::Node;
use crate::engine::plan::Hit;

/// The units of work of one node, and the results of those that are done.
#[derive(Debug, Clone)]
pub struct ActionChain<'g> {
    /// The graph's own until some are added.
    templates: Cow<'g, [ActionTemplate]>,
    hits: Vec<Hit>,
}

impl<'g> ActionChain<'g> {
    /// The units of a node of which none is done.
    pub fn new(node: &'g Node) -> Self {
        ActionChain {
            templates: Cow::Borrowed(&node.lowered.actions),
            hits: Vec::new(),
        }
    }

    /// The unit that is next.
    pub fn next(&self) -> &ActionTemplate {
        &self.templates[self.hits.len()]
    }

    /// Whether none is known to come after the next one.
    pub fn is_last(&self) -> bool {
        self.hits.len() + 1 == self.templates.len()
    }

    /// How many are done, but for the last, whose result is the node's.
    pub fn done(&self) -> usize {
        self.hits.len()
    }

    /// The result of a unit that is done.
    pub fn hit(&self, unit: usize) -> &Hit {
        &self.hits[unit]
    }

    /// The results of all units that are done, in their order.
    pub fn results(&self) -> Vec<Outputs> {
        self.hits.iter().map(|hit| hit.result.clone()).collect()
    }

    /// Adds units after the next one, before all that follow it.
    pub(super) fn insert(&mut self, further: Vec<ActionTemplate>) {
        if !further.is_empty() {
            let after = self.hits.len() + 1;
            self.templates.to_mut().splice(after..after, further);
        }
    }

    /// Takes the next unit's result, which is not the last one's.
    pub(super) fn finish(&mut self, hit: Hit) {
        self.hits.push(hit);
    }
}

/// The name under which a node's unit is remembered: the node's own for the first.
pub fn chain_step_name(node: String, unit: usize) -> String {
    if unit == 0 {
        node
    } else {
        format!("{node}#{unit}")
    }
}
