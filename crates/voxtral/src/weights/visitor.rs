//! Named parameter visitor and mapper: visits a model's float parameters with their dotted field path, such as
//! `language_model.model.norm.weight`.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Visits parameters by name, like burn's `ModuleVisitor`.
pub trait NamedVisitor {
    /// Called once for each parameter.
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

/// Replaces parameters by name, like burn's `ModuleMapper`.
pub trait NamedMapper {
    /// Returns the replacement of one parameter.
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Visits every float parameter of a model.
pub fn visit_named<M: Module>(model: &M, visitor: &mut impl NamedVisitor) {
    model.visit(&mut NamedWalk { path: Vec::new(), inner: visitor });
}

/// Maps every float parameter of a model.
pub fn map_named<M: Module>(model: M, mapper: &mut impl NamedMapper) -> M {
    model.map(&mut NamedWalk { path: Vec::new(), inner: mapper })
}

/// Tracks the field path while burn walks over the modules.
struct NamedWalk<'a, W> {
    path: Vec<String>,
    inner: &'a mut W,
}

impl<W: NamedVisitor> ModuleVisitor for NamedWalk<'_, W> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.inner.visit(&self.path.join("."), param);
    }
}

impl<W: NamedMapper> ModuleMapper for NamedWalk<'_, W> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.map(&self.path.join("."), param)
    }
}
