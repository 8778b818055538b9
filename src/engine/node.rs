//! Ids of a graph's nodes, and maps with one value for each of them.
//! Knows places in an order, not what stands there.

use std::fmt;
use std::ops::{Index, IndexMut};

/// A node of a graph, by its place in topological order: what a node needs has a lower id.
///
/// It means something only with the graph that it is of, and with maps made for that graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One value for each node of a graph, in topological order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMap<T>(Vec<T>);

impl<T> NodeMap<T> {
    /// A map of a graph without nodes.
    pub fn new() -> Self {
        NodeMap(Vec::new())
    }

    /// The same value for each of `len` nodes.
    pub fn filled(value: T, len: usize) -> Self
    where
        T: Clone,
    {
        NodeMap(vec![value; len])
    }

    /// Adds a node after all others.
    pub fn push(&mut self, value: T) -> NodeId {
        self.0.push(value);
        NodeId(u32::try_from(self.0.len() - 1).expect("BUG: more than 2^32 nodes"))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<T> {
        (0..self.0.len() as u32).map(NodeId)
    }

    pub fn values(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The nodes' values, to change them.
    pub fn values_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// Every node with its value.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &T)> {
        self.ids().zip(&self.0)
    }

    /// Every node with its value, to change it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut T)> {
        self.ids().zip(&mut self.0)
    }

    /// What `change` makes of each node's value.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> NodeMap<U> {
        NodeMap(self.0.into_iter().map(change).collect())
    }

    /// One node's value, without the others.
    pub fn into_value(mut self, id: NodeId) -> T {
        self.0.swap_remove(id.0 as usize)
    }
}

impl<T> Default for NodeMap<T> {
    fn default() -> Self {
        NodeMap::new()
    }
}

impl<T> Index<NodeId> for NodeMap<T> {
    type Output = T;

    fn index(&self, id: NodeId) -> &T {
        &self.0[id.0 as usize]
    }
}

impl<T> IndexMut<NodeId> for NodeMap<T> {
    fn index_mut(&mut self, id: NodeId) -> &mut T {
        &mut self.0[id.0 as usize]
    }
}

/// Values in the order of their nodes.
impl<T> FromIterator<T> for NodeMap<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        NodeMap(values.into_iter().collect())
    }
}
