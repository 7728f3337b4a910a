//! The reference pages under `docs/reference` are made of the program itself: `UPDATE=1 cargo test --test main -- reference_docs` writes them anew.
//!
//! `cli.md` comes from the command line's own help, `settings.md` from the JSON Schema of pipeline files, and `code-map.md` from the first line
//! of every source file.

use clap::{Arg, ArgAction, Command};
use pipeline::stage::Arity;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use voxpipe::stages::STAGES;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a page with what it should say; `UPDATE=1` writes it.
#[track_caller]
fn current(name: &str, text: &str) {
    let path = root("docs/reference").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "docs/reference/{name} is out of date: UPDATE=1 cargo test --test main -- reference_docs");
}

/// Text that may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn the_command_line_page_is_current() {
    let mut command = voxpipe::cli::command();
    command.build();
    let mut page = String::from(
        "# Command line\n\n<!-- Generated from the program's help: UPDATE=1 cargo test --test main -- reference_docs -->\n\n\
         Every command ends with one of the [exit codes](exit-codes.md). Commands that print results take `--json`; its fields are described in \
         [JSON output](json.md).\n\n",
    );
    let visible = |command: &Command| command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned().collect::<Vec<_>>();
    for sub in visible(&command) {
        if sub.get_name() != "help" {
            describe(&sub, "voxpipe", 2, &mut page);
        }
    }
    current("cli.md", &page);
}

fn describe(command: &Command, parent: &str, level: usize, page: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(page, "{} `{name}`\n\n{about}.\n", "#".repeat(level)).unwrap();
    let subs: Vec<&Command> = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").collect();
    let shown = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let args: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    if !args.is_empty() {
        page.push_str("| argument | what it does | default |\n|---|---|---|\n");
        for arg in args {
            let values: Vec<String> = arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
            let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
            let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            if takes && !values.is_empty() {
                write!(help, ": {}", values.join(", ")).unwrap();
            }
            if let Some(former) = arg.get_all_aliases().filter(|names| !names.is_empty()) {
                let names: Vec<String> = former.iter().map(|name| format!("`--{name}`")).collect();
                write!(help, " (also {})", names.join(", ")).unwrap();
            }
            let default: Vec<String> = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
            let default = if takes { default.join(", ") } else { String::new() };
            writeln!(page, "| `{}` | {} | {default} |", written(arg, takes), cell(&help)).unwrap();
        }
        page.push('\n');
    }
    for sub in subs {
        describe(sub, &name, level + 1, page);
    }
}

/// An argument as one would type it.
fn written(arg: &Arg, takes: bool) -> String {
    let value = arg.get_value_names().and_then(|names| names.first()).map_or_else(|| "VALUE".to_owned(), ToString::to_string);
    let many = matches!(arg.get_action(), ArgAction::Append);
    if arg.is_positional() {
        let name = if value == "VALUE" { arg.get_id().as_str().to_uppercase() } else { value };
        return if arg.is_required_set() { name } else { format!("[{name}]") };
    }
    let flags: Vec<String> =
        arg.get_short().map(|short| format!("-{short}")).into_iter().chain(arg.get_long().map(|long| format!("--{long}"))).collect();
    format!("{}{}{}", flags.join(", "), if takes { format!(" {value}") } else { String::new() }, if many && takes { " …" } else { "" })
}

/// The table of audio formats in `inputs.md` is that of the decoder.
#[test]
fn the_page_of_inputs_has_every_audio_format() {
    let mut table = String::from("| Format | Endings | Decoded | By `ffmpeg` | |\n|---|---|---|---|---|\n");
    for format in voxtral::audio::formats::FORMATS {
        let endings = format.extensions.iter().map(|ending| format!("`.{ending}`")).collect::<Vec<_>>().join(" ");
        writeln!(table, "| {} | {endings} | {} | {} | {} |", format.name, format.built_in, format.with_ffmpeg, format.remarks).unwrap();
    }
    let page = fs::read_to_string(root("docs/reference/inputs.md")).unwrap();
    let (before, rest) = page.split_once("<!-- formats: generated").expect("the mark of the table");
    let (mark, rest) = rest.split_once("-->\n").unwrap();
    let (_, after) = rest.split_once("<!-- end of formats -->").unwrap();
    current("inputs.md", &format!("{before}<!-- formats: generated{mark}-->\n\n{table}\n<!-- end of formats -->{after}"));
}

#[test]
fn the_settings_page_is_current() {
    let schema = pipeline::manifest::schema(STAGES);
    let definitions = schema["$defs"].as_object().unwrap();
    let mut page = String::from(
        "# Settings\n\n<!-- Generated from the JSON Schema: UPDATE=1 cargo test --test main -- reference_docs -->\n\n\
         Every key of a `pipeline.toml`. `voxpipe schema` prints the same as a JSON Schema for editors. An unknown key is an error with a \
         suggestion. A former name is still read.\n\n## The file\n\n",
    );
    let mut pending = Vec::new();
    table(&schema, definitions, "", &mut pending, &mut page);
    page.push_str("## A stage: `[stage.NAME]`\n\n");
    table(&definitions["StageTable"], definitions, "", &mut pending, &mut page);
    let mut seen: BTreeSet<String> = BTreeSet::from(["StageTable".to_owned()]);
    while let Some((path, name)) = pending.pop() {
        if seen.insert(name.clone()) && definitions.contains_key(&name) && is_table(&definitions[&name]) {
            writeln!(page, "### `{path}`\n").unwrap();
            table(&definitions[&name], definitions, &path, &mut pending, &mut page);
        }
    }
    page.push_str("## Stage kinds\n\n");
    for factory in STAGES {
        let kind = factory.kind();
        writeln!(page, "### `uses = \"{kind}\"`\n\n{}.\n", capital(factory.about())).unwrap();
        if !factory.ports().is_empty() {
            page.push_str("| input (`from`) | takes | |\n|---|---|---|\n");
            for port in factory.ports() {
                let kinds: Vec<String> = port.kinds.iter().map(ToString::to_string).collect();
                let takes = if kinds.is_empty() { "any result".to_owned() } else { kinds.join(" or ") };
                let how = match port.arity {
                    Arity::One => "",
                    Arity::Optional => ", optional",
                    Arity::Many => ", one or more",
                };
                let name = if port.name == "*" { "any name" } else { port.name };
                writeln!(page, "| `{name}` | {takes}{how} | {} |", cell(port.about)).unwrap();
            }
            page.push('\n');
        }
        let mut generator = pipeline::diagnostics::toml_schema::generator();
        let own = factory.schema(&mut generator).to_value();
        let own = resolved(&own, definitions);
        page.push_str("Settings (`with`):\n\n");
        let mut nested = Vec::new();
        table(own, definitions, "", &mut nested, &mut page);
        let mut seen = BTreeSet::new();
        while let Some((path, name)) = nested.pop() {
            if seen.insert(name.clone()) && definitions.get(&name).is_some_and(is_table) {
                writeln!(page, "#### `{path}` of `{kind}`\n").unwrap();
                table(&definitions[&name], definitions, &path, &mut nested, &mut page);
            }
        }
    }
    current("settings.md", &page);
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn is_table(schema: &Value) -> bool {
    schema.get("properties").is_some()
}

fn resolved<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/"));
    name.and_then(|name| definitions.get(name)).unwrap_or(schema)
}

/// The keys of a table; tables among them are described later.
fn table(schema: &Value, definitions: &Map<String, Value>, path: &str, pending: &mut Vec<(String, String)>, page: &mut String) {
    let Some(properties) = resolved(schema, definitions).get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    page.push_str("| key | type | default | what it is |\n|---|---|---|---|\n");
    let mut found = Vec::new();
    for (key, property) in properties {
        let whole = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let mut kinds = Vec::new();
        types(property, definitions, &whole, &mut kinds, &mut found);
        kinds.dedup();
        let default = match property.get("default") {
            _ if required.contains(&key.as_str()) => "required".to_owned(),
            Some(Value::Null) | None => String::new(),
            Some(Value::Object(_)) => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let describes = |value: &Value| value.get("description").and_then(Value::as_str).map(str::to_owned);
        let mut about = describes(property).or_else(|| describes(resolved(property, definitions))).unwrap_or_default();
        if let Some(former) = property.get("x-formerly").and_then(Value::as_str) {
            write!(about, " Formerly `{former}`.").unwrap();
        }
        writeln!(page, "| `{key}` | {} | {default} | {} |", cell(&kinds.join(" or ")), cell(&about)).unwrap();
    }
    page.push('\n');
    pending.extend(found.into_iter().rev());
}

fn types(schema: &Value, definitions: &Map<String, Value>, path: &str, kinds: &mut Vec<String>, found: &mut Vec<(String, String)>) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/")) {
        let target = &definitions[name];
        if is_table(target) {
            found.push((path.to_owned(), name.to_owned()));
            kinds.push("table".to_owned());
        } else if name != "Reference" {
            types(target, definitions, path, kinds, found);
        }
        return;
    }
    for choice in ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key).and_then(Value::as_array)).flatten() {
        types(choice, definitions, path, kinds, found);
    }
    if let Some(constant) = schema.get("const").and_then(Value::as_str) {
        kinds.push(format!("`\"{constant}\"`"));
        return;
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        kinds.extend(words.iter().filter_map(Value::as_str).map(|word| format!("`\"{word}\"`")));
        return;
    }
    if let Some(title) = schema.get("title").and_then(Value::as_str) {
        kinds.push(title.to_owned());
        return;
    }
    let named = match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for name in named.into_iter().filter(|name| *name != "null") {
        match name {
            "array" => {
                let mut items = Vec::new();
                if let Some(schema) = schema.get("items") {
                    types(schema, definitions, &format!("{path}[]"), &mut items, found);
                }
                items.dedup();
                kinds.push(format!("array of {}", if items.is_empty() { "values".to_owned() } else { items.join(" or ") }));
            }
            "object" => {
                let mut values = Vec::new();
                if let Some(schema) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                    types(schema, definitions, &format!("{path}.NAME"), &mut values, found);
                }
                kinds.push(if values.is_empty() { "table".to_owned() } else { format!("table of {}", values.join(" or ")) });
            }
            other => kinds.push(other.to_owned()),
        }
    }
}

#[test]
fn the_code_map_is_current() {
    let mut page = String::from(
        "# Code map\n\n<!-- Generated from the first line of each file: UPDATE=1 cargo test --test main -- reference_docs -->\n\n\
         Start at the `lib.rs` of a crate. In every file the item it is named after comes first, its helpers below. \
         [ARCHITECTURE.md](../../ARCHITECTURE.md) says how the parts work together.\n",
    );
    for (folder, title) in [
        ("crates/voxtral/src", "`crates/voxtral`: the model"),
        ("crates/pipeline/src", "`crates/pipeline`: the pipeline runner"),
        ("crates/io/src", "`crates/io`: what both share"),
        ("src", "`src`: the program"),
    ] {
        writeln!(page, "\n## {title}\n\n| file | what it is |\n|---|---|").unwrap();
        let mut files = Vec::new();
        collect(&root(folder), &mut files);
        files.sort();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let mut first = text.lines().take_while(|line| line.starts_with("//!")).map(|line| line.trim_start_matches("//!").trim());
            let mut about = String::new();
            for line in first.by_ref().take_while(|line| !line.is_empty()) {
                about = format!("{about} {line}");
            }
            let name = file.strip_prefix(root(folder)).unwrap().display().to_string();
            // Links of rustdoc lead nowhere here.
            let about = about.replace("[`", "`").replace("`]", "`");
            writeln!(page, "| `{name}` | {} |", cell(&about)).unwrap();
        }
    }
    current("code-map.md", &page);
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}
