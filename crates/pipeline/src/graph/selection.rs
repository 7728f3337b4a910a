//! Selection of stages for one run: `run STAGE…`, `--until`, `--from`, `--only`, `--except`.
//!
//! A selected pipeline has the selected steps and those whose results they need. Of the latter, the ones that were left out are `held`: they are
//! used if they are up to date, and never run.

use super::{Pipeline, Step};
use crate::diagnostics::{did_you_mean, list};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::foreach::{split_name, suggest_entry};
use std::collections::BTreeSet;

/// Which stages to run. Names may be those of single stages, and `stage` or `stage[*]` for all stages of a `foreach`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageSelection {
    /// These, and everything they need.
    pub until: Vec<String>,
    /// These, and everything that depends on them.
    pub from: Vec<String>,
    /// These alone.
    pub only: Vec<String>,
    /// Not these, nor what depends on them.
    pub except: Vec<String>,
}

impl StageSelection {
    /// Whether every stage is selected.
    pub fn is_empty(&self) -> bool {
        [&self.until, &self.from, &self.only, &self.except].iter().all(|names| names.is_empty())
    }

    /// The selection as command-line arguments.
    pub fn arguments(&self) -> Vec<String> {
        let options = [("--until", &self.until), ("--from", &self.from), ("--only", &self.only), ("--except", &self.except)];
        options.into_iter().flat_map(|(option, names)| names.iter().map(move |name| format!("{option} {name}"))).collect()
    }
}

impl Pipeline {
    /// The names of the steps that a name on the command line stands for: one step, or all of a `foreach`.
    ///
    /// # Errors
    /// If there is no such step.
    pub fn steps_named(&self, name: &str) -> Result<Vec<&str>> {
        let names = || self.steps.iter().chain(&self.left_out).map(|step| step.name.as_str());
        if let Some(one) = names().find(|known| *known == name) {
            return Ok(vec![one]);
        }
        let group = name.strip_suffix("[*]").unwrap_or(name);
        let all: Vec<&str> = names().filter(|known| split_name(known).is_some_and(|(stage, _)| stage == group)).collect();
        if !all.is_empty() {
            return Ok(all);
        }
        let unknown = Error::new(format!("unknown stage `{name}`")).kind(ErrorKind::InvalidInput);
        if let Some((stage, _)) = split_name(name) {
            if names().any(|known| known == stage) {
                return Err(unknown.hint(format!("`{stage}` has no `foreach`: write `{stage}`")));
            }
            let entries = names().filter_map(split_name).filter(|(of, _)| *of == stage).map(|(_, entry)| entry);
            if let Some(hint) = entries.clone().next().and_then(|_| suggest_entry(name, entries)) {
                return Err(unknown.hint(hint));
            }
        }
        let mut known: Vec<&str> = names().collect();
        let groups: BTreeSet<&str> = names().filter_map(|name| Some(split_name(name)?.0)).collect();
        let hint = did_you_mean(name, known.iter().copied().chain(groups)).unwrap_or_else(|| {
            known.sort_unstable();
            format!("stages are: {}", some(&known))
        });
        Err(unknown.hint(hint))
    }

    /// The part of the pipeline that is selected, with the steps whose results it needs.
    ///
    /// # Errors
    /// If a name is not one of a stage, or nothing is selected.
    pub fn select(mut self, selection: &StageSelection) -> Result<Self> {
        if selection.is_empty() {
            return Ok(self);
        }
        let named = |names: &[String]| -> Result<BTreeSet<String>> {
            let found: Vec<Vec<&str>> = names.iter().map(|name| self.steps_named(name)).collect::<Result<_>>()?;
            Ok(found.into_iter().flatten().map(str::to_owned).collect())
        };
        let (until, from) = (named(&selection.until)?, named(&selection.from)?);
        let (only, except) = (named(&selection.only)?, named(&selection.except)?);
        let mut chosen: BTreeSet<String> = self.steps.iter().map(|step| step.name.clone()).collect();
        if !until.is_empty() {
            let needed = self.all_upstream(until.iter().map(String::as_str).collect(), Step::needs);
            chosen.retain(|name| needed.contains(name.as_str()));
        }
        if !from.is_empty() {
            let after = self.downstream(&from);
            chosen.retain(|name| after.contains(name));
        }
        if !only.is_empty() {
            chosen.retain(|name| only.contains(name));
        }
        if !except.is_empty() {
            let after = self.downstream(&except);
            chosen.retain(|name| !after.contains(name));
        }
        if chosen.is_empty() {
            return Err(Error::new(format!("no stage is left to run with {}", selection.arguments().join(" ")))
                .kind(ErrorKind::InvalidInput)
                .hint(
                    "`--until` and `--from` together select what lies between them; `--except` also leaves out what depends on its stages",
                ));
        }
        // A stage in `after` is waited for where it runs, but its result is not needed.
        let needed: BTreeSet<String> =
            self.all_upstream(chosen.iter().map(String::as_str).collect(), Step::inputs).into_iter().map(str::to_owned).collect();
        let steps = std::mem::take(&mut self.steps);
        let (steps, left_out): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|step| needed.contains(&step.name));
        self.held = steps.iter().map(|step| step.name.clone()).filter(|name| !chosen.contains(name)).collect();
        (self.steps, self.left_out) = (steps, left_out);
        Ok(self)
    }

    /// These steps and everything that they need, in one step or several.
    pub(super) fn all_upstream<'a>(&'a self, names: BTreeSet<&'a str>, needs: impl Fn(&'a Step) -> BTreeSet<&'a str>) -> BTreeSet<&'a str> {
        let mut open: Vec<&str> = names.iter().copied().collect();
        let mut found = names;
        while let Some(name) = open.pop() {
            let step = self.steps.iter().chain(&self.left_out).find(|step| step.name == name);
            for needed in step.into_iter().flat_map(&needs) {
                if found.insert(needed) {
                    open.push(needed);
                }
            }
        }
        found
    }

    /// These steps and everything that depends on them.
    fn downstream(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut found = names.clone();
        for step in &self.steps {
            if step.needs().into_iter().any(|needed| found.contains(needed)) {
                found.insert(step.name.clone());
            }
        }
        found
    }
}

/// Names for a message; of many only the first.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 20;
    let shown = list(names.iter().take(SHOWN).copied());
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}
