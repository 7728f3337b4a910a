//! Walking over a model's parameters by name, where a name is the path of fields that leads to the parameter.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Something that looks at parameters.
pub trait NamedVisitor {
    /// Looks at one.
    fn look<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

/// Something that changes parameters.
pub trait NamedMapper {
    /// Changes one.
    fn change<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Shows every parameter.
pub fn look<M: Module>(model: &M, eyes: &mut impl NamedVisitor) {
    model.visit(&mut Walk { path: Vec::new(), with: eyes });
}

/// Passes every parameter through a change.
pub fn change<M: Module>(model: M, hands: &mut impl NamedMapper) -> M {
    model.map(&mut Walk { path: Vec::new(), with: hands })
}

struct Walk<'a, W> {
    path: Vec<String>,
    with: &'a mut W,
}

impl<W: NamedVisitor> ModuleVisitor for Walk<'_, W> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.with.look(&self.path.join("."), param);
    }
}

impl<W: NamedMapper> ModuleMapper for Walk<'_, W> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.with.change(&self.path.join("."), param)
    }
}
