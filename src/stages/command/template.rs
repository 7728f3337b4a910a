//! `${…}` references in the arguments of a command.

use crate::error::{Error, ErrorKind, Result};
use pipeline::stage::Context;
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
}

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
                    Some(port) if !port.is_empty() => Piece::From(port.to_owned()),
                    _ => return Err(format!("unknown reference `${{{name}}}`")),
                },
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
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
                Piece::From(name) => filled.push(std::path::absolute(input(cx, name)?)?),
            }
        }
        Ok(filled)
    }
}

/// The folder of `${from.NAME}`, where NAME is `PORT` or `PORT.INDEX`.
fn input<'a>(cx: &'a Context, name: &str) -> Result<&'a Path> {
    let named = format!("`${{from.{name}}}` in `run` of stage `{}`", cx.stage);
    match cx.all(name) {
        [one] => return Ok(&one.path),
        [] => {}
        several => {
            return Err(Error::new(format!("{named} refers to {} folders", several.len()))
                .hint(format!("write `${{from.{name}.0}}` to `${{from.{name}.{}}}`, each in its own argument", several.len() - 1)));
        }
    }
    if let Some((port, Ok(index))) = name.rsplit_once('.').map(|(port, index)| (port, index.parse::<usize>()))
        && let Some(artifact) = cx.all(port).get(index)
    {
        return Ok(&artifact.path);
    }
    let ports = cx.inputs.iter().map(|(port, artifacts)| format!("{port} ({})", artifacts.len())).collect::<Vec<_>>();
    let hint = if ports.is_empty() { "add it to `from`".to_owned() } else { format!("`from` has: {}", ports.join(", ")) };
    Err(Error::new(format!("{named} has no such input")).kind(ErrorKind::InvalidInput).hint(hint))
}
