//! The order in which locals are evaluated, and where their sensitive values have been.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use impasto_stages::{Data, Value};

/// Most steps of a way that are told.
const MAX_WAY: usize = 16;

/// Adds a step to the way of all sensitive values in a value. What is shared is changed once, and stays shared: `done` has
/// what became of it, by its address, together with what it was, so that the address stays its own.
pub(super) fn extend_way(value: &mut Value, step: &str, done: &mut HashMap<usize, (Data, Data)>) {
    if let Some(sensitive) = &mut value.marks.sensitive
        && sensitive.way.len() < MAX_WAY
        && sensitive.way.last().is_none_or(|last| last != step)
    {
        Arc::make_mut(sensitive).way.push(step.to_owned());
    }
    let (address, below) = match &value.data {
        Data::List(items) => (items.address(), items.below()),
        Data::Object(items) => (items.address(), items.below()),
        _ => return,
    };
    if below.marks.sensitive.is_none() {
        return;
    }
    if let Some((_, known)) = done.get(&address) {
        value.data = known.clone();
        return;
    }
    let before = value.data.clone();
    value.data = match &before {
        Data::List(items) => {
            let mut items = items.to_vec();
            items
                .iter_mut()
                .for_each(|item| extend_way(item, step, done));
            Data::List(items.into())
        }
        Data::Object(items) => {
            let mut items = BTreeMap::clone(items);
            items
                .values_mut()
                .for_each(|item| extend_way(item, step, done));
            Data::Object(items.into())
        }
        other => other.clone(),
    };
    done.insert(address, (before, value.data.clone()));
}

/// An order in which each comes after those that it uses, without those in cycles; and the first cycle.
pub(super) fn order(uses: &[Vec<u32>]) -> (Vec<usize>, Option<Vec<usize>>) {
    let mut order = Vec::with_capacity(uses.len());
    let mut circle = None;
    // 0: new, 1: on the path, 2: done, 3: in a cycle or after one.
    let mut marks = vec![0u8; uses.len()];
    for start in 0..uses.len() {
        if marks[start] != 0 {
            continue;
        }
        let mut path: Vec<(usize, usize)> = vec![(start, 0)];
        marks[start] = 1;
        while let Some((at, next)) = path.last_mut() {
            let Some(target) = uses[*at].get(*next).map(|target| *target as usize) else {
                let at = *at;
                path.pop();
                if marks[at] == 1 {
                    marks[at] = 2;
                    order.push(at);
                }
                continue;
            };
            *next += 1;
            let at = *at;
            match marks[target] {
                0 => {
                    marks[target] = 1;
                    path.push((target, 0));
                }
                1 | 3 if path.iter().any(|(id, _)| *id == target) => {
                    let from = path.iter().position(|(id, _)| *id == target).unwrap_or(0);
                    let members: Vec<usize> = path[from..].iter().map(|(id, _)| *id).collect();
                    members.iter().for_each(|id| marks[*id] = 3);
                    circle.get_or_insert(members);
                }
                3 => marks[at] = 3,
                _ => {}
            }
        }
    }
    (order, circle)
}
