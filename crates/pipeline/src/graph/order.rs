//! The order of the stages: what is needed before what needs it, and a complaint where they need each other in a circle.

use super::resolver::{Draft, Resolver};
use crate::manifest::diagnostic::Diagnostic;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

impl<'a> Resolver<'a, '_> {
    /// The drafts' indices, what is needed before what needs it, and otherwise as in the file.
    pub(super) fn order(&mut self, drafts: &[Draft<'a>]) -> Vec<usize> {
        let index: BTreeMap<&str, usize> = drafts.iter().enumerate().map(|(index, draft)| (draft.name.get_ref().as_str(), index)).collect();
        // An edge leads from what is needed to what needs it, and knows where the file says so.
        let mut graph: DiGraph<usize, Range<usize>> = DiGraph::new();
        let nodes: Vec<NodeIndex> = (0..drafts.len()).map(|index| graph.add_node(index)).collect();
        for (needing, draft) in drafts.iter().enumerate() {
            for upstream in draft.from.iter().flat_map(|(_, upstreams)| upstreams).chain(&draft.table.after) {
                if let Some(needed) = index.get(upstream.get_ref().as_str()) {
                    graph.add_edge(nodes[*needed], nodes[needing], upstream.span());
                }
            }
        }
        for ring in tarjan_scc(&graph) {
            let alone = ring.len() == 1 && !graph.contains_edge(ring[0], ring[0]);
            if !alone {
                self.cycle(&graph, &ring, drafts);
            }
        }
        topological(&graph)
    }

    /// Tells of the shortest ring through the first stage of a knot.
    fn cycle(&mut self, graph: &DiGraph<usize, Range<usize>>, knot: &[NodeIndex], drafts: &[Draft<'a>]) {
        let Some(first) = knot.iter().copied().min_by_key(|node| graph[*node]) else { return };
        let name = |node: NodeIndex| drafts[graph[node]].name.get_ref().as_str();
        let ring = ring_through(graph, first);
        if let [edge] = ring.as_slice() {
            let message = format!("`{}` needs its own result", name(first));
            return self.found.push(Diagnostic::error(graph[*edge].clone(), message).hint("name another stage"));
        }
        let mut places: Vec<(Range<usize>, String)> = Vec::new();
        let mut names = vec![name(first)];
        for edge in &ring {
            if let Some((needed, needing)) = graph.edge_endpoints(*edge) {
                places.push((graph[*edge].clone(), format!("`{}` needs `{}`", name(needing), name(needed))));
                names.push(name(needing));
            }
        }
        places.sort_by_key(|(span, _)| span.start);
        let mut places = places.into_iter();
        let Some((place, told)) = places.next() else { return };
        let mut complaint = Diagnostic::error(place, format!("the stages need each other in a circle: {}", names.join(" → "))).hint(told);
        for (place, told) in places {
            complaint = complaint.related(place, told);
        }
        self.found.push(complaint.note("remove one of these references"));
    }
}

/// Kahn's algorithm, always taking the stage that comes first in the file. What hangs in a knot is left out.
fn topological(graph: &DiGraph<usize, Range<usize>>) -> Vec<usize> {
    let mut waiting: BTreeMap<usize, usize> =
        graph.node_indices().map(|node| (graph[node], graph.edges_directed(node, petgraph::Incoming).count())).collect();
    let mut order = Vec::new();
    while let Some(next) = waiting.iter().find(|(_, needs)| **needs == 0).map(|(index, _)| *index) {
        waiting.remove(&next);
        order.push(next);
        for needing in graph.neighbors(NodeIndex::new(next)) {
            if let Some(needs) = waiting.get_mut(&graph[needing]) {
                *needs -= 1;
            }
        }
    }
    order
}

/// The edges of the shortest way from a node back to itself.
fn ring_through(graph: &DiGraph<usize, Range<usize>>, first: NodeIndex) -> Vec<EdgeIndex> {
    let mut came_by = BTreeMap::new();
    let mut queue = VecDeque::from([first]);
    while let Some(node) = queue.pop_front() {
        let mut edges: Vec<_> = graph.edges(node).collect();
        edges.sort_by_key(|edge| edge.weight().start);
        for edge in edges {
            if edge.target() == first {
                let mut ring = vec![edge.id()];
                let mut at = node;
                while let Some((id, before)) = came_by.get(&at).copied().filter(|_| at != first) {
                    ring.push(id);
                    at = before;
                }
                ring.reverse();
                return ring;
            }
            came_by.entry(edge.target()).or_insert_with(|| {
                queue.push_back(edge.target());
                (edge.id(), node)
            });
        }
    }
    Vec::new()
}
