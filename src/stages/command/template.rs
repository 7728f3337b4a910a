//! `${…}` references in the arguments of a command.

use crate::error::{Error, ErrorKind, Result};
use pipeline::stage::Context;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// A parsed argument.
pub(super) struct Template(Vec<Piece>);

enum Piece {
    Text(String),
    Out,
    Scratch,
    Seed,
    From(String),
    /// `${from.PORT...}`: all inputs of a port.
    All(String),
}

/// What marks a reference to all inputs of a port.
const ALL: &str = "...";

impl Template {
    /// Parses an argument. `$${` is a literal `${`.
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = argument;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                pieces.push(Piece::Text(format!("{before}${{")));
                rest = after;
                continue;
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("`${{` in `{argument}` has no `}}`"));
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "out" => Piece::Out,
                "scratch" => Piece::Scratch,
                "seed" => Piece::Seed,
                _ => match name.strip_prefix("from.") {
                    Some(port) if port.strip_suffix(ALL).is_some_and(|port| !port.is_empty() && !port.contains('.')) => {
                        Piece::All(port[..port.len() - ALL.len()].to_owned())
                    }
                    // No port ends in a dot: what is left is a mistyped `...`.
                    Some(port) if !port.is_empty() && !port.ends_with('.') => Piece::From(port.to_owned()),
                    _ => return Err(format!("unknown reference `${{{name}}}`")),
                },
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// The port of `${from.PORT...}`, if the argument has this reference: alone (`true`) or with other text.
    pub(super) fn all_of(&self) -> Option<(&str, bool)> {
        let port = self.0.iter().find_map(|piece| if let Piece::All(port) = piece { Some(port) } else { None })?;
        let others = self.0.iter().filter(|piece| !matches!(piece, Piece::Text(text) if text.is_empty())).count() - 1;
        Some((port, others == 0))
    }

    /// Checks the references to inputs against the number of inputs of each port: a message and a hint.
    pub(super) fn check_inputs(&self, counts: &BTreeMap<&str, usize>) -> Option<(String, String)> {
        self.0.iter().find_map(|piece| {
            let Piece::From(name) = piece else { return None };
            match counts.get(name.as_str()) {
                Some(0 | 1) => return None,
                Some(several) => {
                    let message = format!("`${{from.{name}}}` stands for one folder, but `{name}` has {several} inputs");
                    return Some((message, for_several(name, *several)));
                }
                None => {}
            }
            // What has no such port was reported before.
            let (port, index) = name.split_once('.')?;
            let count = *counts.get(port)?;
            match number(index) {
                Some(index) if index < count => None,
                Some(_) => {
                    let message = format!("`${{from.{name}}}`: `{port}` has only {count} input{}", if count == 1 { "" } else { "s" });
                    Some((message, format!("they are numbered from 0: the last is `${{from.{port}.{}}}`", count.saturating_sub(1))))
                }
                None => Some((format!("unknown reference `${{from.{name}}}`"), for_several(port, count))),
            }
        })
    }

    /// Substitutes the references: one argument, or one for each input of `${from.PORT...}`.
    pub(super) fn fill_all(&self, cx: &Context) -> Result<Vec<OsString>> {
        match self.all_of() {
            Some((port, true)) => {
                cx.all(port).iter().map(|input| Ok(std::path::absolute(&input.path)?.into_os_string())).collect::<Result<Vec<_>>>()
            }
            _ => Ok(vec![self.fill(cx)?]),
        }
    }

    /// Substitutes the references.
    pub(super) fn fill(&self, cx: &Context) -> Result<OsString> {
        let mut filled = OsString::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push(text),
                Piece::Out => filled.push(std::path::absolute(&cx.out)?),
                Piece::Scratch => filled.push(std::path::absolute(&cx.scratch)?),
                Piece::Seed => filled.push(cx.seed.to_string()),
                Piece::All(port) => {
                    return Err(Error::new(format!("`${{from.{port}...}}` is not an argument of its own")).kind(ErrorKind::InvalidInput));
                }
                Piece::From(name) => filled.push(std::path::absolute(input(cx, name)?)?),
            }
        }
        Ok(filled)
    }
}

/// The number of an input, in its one spelling: `00` and `+1` are none, so that what is written twice is the same text.
fn number(text: &str) -> Option<usize> {
    text.parse::<usize>().ok().filter(|number| number.to_string() == text)
}

/// How to name the inputs of a port that has several.
fn for_several(port: &str, count: usize) -> String {
    let last = count.saturating_sub(1);
    format!(
        "write `${{from.{port}...}}` as an argument of its own for all of them, or `${{from.{port}.0}}` to `${{from.{port}.{last}}}` for one"
    )
}

/// The folder of `${from.NAME}`, where NAME is `PORT` or `PORT.INDEX`.
fn input<'a>(cx: &'a Context, name: &str) -> Result<&'a Path> {
    let named = format!("`${{from.{name}}}` in `run` of stage `{}`", cx.stage);
    match cx.all(name) {
        [one] => return Ok(&one.path),
        [] => {}
        several => {
            return Err(Error::new(format!("{named} refers to {} folders", several.len())).hint(for_several(name, several.len())));
        }
    }
    if let Some((port, Some(index))) = name.split_once('.').map(|(port, index)| (port, number(index)))
        && let Some(artifact) = cx.all(port).get(index)
    {
        return Ok(&artifact.path);
    }
    let ports = cx.inputs.iter().map(|(port, artifacts)| format!("{port} ({})", artifacts.len())).collect::<Vec<_>>();
    let hint = if ports.is_empty() { "add it to `from`".to_owned() } else { format!("`from` has: {}", ports.join(", ")) };
    Err(Error::new(format!("{named} has no such input")).kind(ErrorKind::InvalidInput).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_to_inputs_has_one_spelling() {
        for argument in ["${from.s....}", "${from.s.....}", "${from.s.0...}", "${from....}", "${from.s.}", "${from.s..}", "${from.}"] {
            assert!(Template::parse(argument).is_err_and(|message| message.starts_with("unknown reference")), "{argument}");
        }
        let counts = BTreeMap::from([("s", 2)]);
        let told = |argument: &str| Template::parse(argument).unwrap().check_inputs(&counts).map(|(message, _)| message);
        for argument in ["${from.s.00}", "${from.s.01}", "${from.s.+1}", "${from.s.x}", "${from.s.0.1}"] {
            assert!(told(argument).is_some_and(|message| message.starts_with("unknown reference")), "{argument}");
        }
        for argument in ["${from.s.0}", "${from.s.1}", "${from.s...}"] {
            assert_eq!(told(argument), None, "{argument}");
        }
        assert!(told("${from.s.2}").unwrap().contains("has only 2 inputs"));
    }
}
