//! Topological order of the stages (Kahn's algorithm) and detection of dependency cycles (Tarjan's algorithm).

use super::resolver::{Draft, Resolver};
use crate::diagnostics::Diagnostic;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

impl<'a> Resolver<'a, '_> {
    /// The indices of the drafts in topological order (ties in file order). Reports dependency cycles.
    pub(super) fn order(&mut self, drafts: &[Draft<'a>]) -> Vec<usize> {
        let index: BTreeMap<&str, usize> = drafts.iter().enumerate().map(|(index, draft)| (draft.name.get_ref().as_str(), index)).collect();
        // Edges lead from a stage to its dependents; their weight is the span of the reference in the file.
        let mut graph: DiGraph<usize, Range<usize>> = DiGraph::new();
        let nodes: Vec<NodeIndex> = (0..drafts.len()).map(|index| graph.add_node(index)).collect();
        for (dependent, draft) in drafts.iter().enumerate() {
            for upstream in draft.from.iter().flat_map(|(_, upstreams)| upstreams).chain(&draft.table.after) {
                if let Some(dependency) = index.get(upstream.get_ref().as_str()) {
                    graph.add_edge(nodes[*dependency], nodes[dependent], upstream.span());
                }
            }
        }
        for component in tarjan_scc(&graph) {
            let acyclic = component.len() == 1 && !graph.contains_edge(component[0], component[0]);
            if !acyclic {
                self.cycle(&graph, &component, drafts);
            }
        }
        topological(&graph)
    }

    /// Reports the shortest cycle through the first stage of a strongly connected component.
    fn cycle(&mut self, graph: &DiGraph<usize, Range<usize>>, component: &[NodeIndex], drafts: &[Draft<'a>]) {
        let Some(first) = component.iter().copied().min_by_key(|node| graph[*node]) else { return };
        let name = |node: NodeIndex| drafts[graph[node]].name.get_ref().as_str();
        let cycle = shortest_cycle(graph, first);
        if let [edge] = cycle.as_slice() {
            let message = format!("`{}` depends on itself", name(first));
            return self.found.push(Diagnostic::error(graph[*edge].clone(), message).hint("name another stage"));
        }
        let mut places: Vec<(Range<usize>, String)> = Vec::new();
        let mut names = vec![name(first)];
        for edge in &cycle {
            if let Some((dependency, dependent)) = graph.edge_endpoints(*edge) {
                places.push((graph[*edge].clone(), format!("`{}` depends on `{}`", name(dependent), name(dependency))));
                names.push(name(dependent));
            }
        }
        places.sort_by_key(|(span, _)| span.start);
        let mut places = places.into_iter();
        let Some((place, reason)) = places.next() else { return };
        let message = format!("the stages depend on each other in a cycle: {}", names.join(" → "));
        let mut complaint = Diagnostic::error(place, message).hint(reason);
        for (place, reason) in places {
            complaint = complaint.related(place, reason);
        }
        self.found.push(complaint.note("remove one of these references"));
    }
}

/// Kahn's algorithm, taking the first ready stage in file order. Omits stages on or behind a cycle.
fn topological(graph: &DiGraph<usize, Range<usize>>) -> Vec<usize> {
    let mut waiting: BTreeMap<usize, usize> =
        graph.node_indices().map(|node| (graph[node], graph.edges_directed(node, petgraph::Incoming).count())).collect();
    let mut order = Vec::new();
    while let Some(next) = waiting.iter().find(|(_, needs)| **needs == 0).map(|(index, _)| *index) {
        waiting.remove(&next);
        order.push(next);
        for dependent in graph.neighbors(NodeIndex::new(next)) {
            if let Some(needs) = waiting.get_mut(&graph[dependent]) {
                *needs -= 1;
            }
        }
    }
    order
}

/// The edges of the shortest cycle through a node (breadth-first search).
fn shortest_cycle(graph: &DiGraph<usize, Range<usize>>, first: NodeIndex) -> Vec<EdgeIndex> {
    let mut came_by = BTreeMap::new();
    let mut queue = VecDeque::from([first]);
    while let Some(node) = queue.pop_front() {
        let mut edges: Vec<_> = graph.edges(node).collect();
        edges.sort_by_key(|edge| edge.weight().start);
        for edge in edges {
            if edge.target() == first {
                let mut cycle = vec![edge.id()];
                let mut at = node;
                while let Some((id, before)) = came_by.get(&at).copied().filter(|_| at != first) {
                    cycle.push(id);
                    at = before;
                }
                cycle.reverse();
                return cycle;
            }
            came_by.entry(edge.target()).or_insert_with(|| {
                queue.push_back(edge.target());
                (edge.id(), node)
            });
        }
    }
    Vec::new()
}
