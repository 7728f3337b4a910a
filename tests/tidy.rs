//! The repository stays tidy: who may import whom inside a crate, who may print or reach the network, and which words are not used.
//!
//! Between crates Cargo holds the walls: `voxtral` and `voxpipe-pipeline` do not depend on each other, and neither on the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A crate's folder, and its modules from the ground up: each may use those on the lines before its own, and nothing else of the crate.
type Layers = (&'static str, &'static [&'static [&'static str]]);

const CRATES: &[Layers] = &[
    ("crates/io/src", &[&["error"], &["digest", "jsonl", "metrics", "secrets", "write"]]),
    (
        "crates/voxtral/src",
        &[
            &["error", "kernels", "metrics"],
            &["audio", "device", "tokenizer", "weights"],
            &["model"],
            &["lora"],
            &["inference"],
            &["realtime", "training"],
            &["any_transcriber"],
        ],
    ),
    (
        "crates/pipeline/src",
        &[
            &["error"],
            &["artifact", "diagnostics", "events", "exit", "process"],
            &["stage"],
            &["manifest"],
            &["cache"],
            &["graph"],
            &["plan"],
            &["executor"],
            &["scheduler"],
        ],
    ),
    ("src", &[&["allocator", "error", "plot"], &["bench", "data"], &["hub"], &["release", "report"], &["stages"], &["studio"], &["cli"]]),
];

/// Words of a former private dialect: no module and no public item is named with one of them. Each with the field's word.
const OLD_NAMES: &[(&str, &str)] = &[
    ("advice", "hint"),
    ("brain", "bf16"),
    ("crew", "worker pool"),
    ("ear", "reader"),
    ("ears", "encoder"),
    ("gated", "mlp"),
    ("hear", "transcribe"),
    ("judge", "validation"),
    ("judgement", "evaluation"),
    ("leash", "liveness lock"),
    ("listener", "observer"),
    ("memo", "no-op entry"),
    ("quantise", "quantize"),
    ("quantised", "quantized"),
    ("recogniser", "transcriber"),
    ("recognizer", "transcriber"),
    ("remedy", "suggestion"),
    ("remedies", "suggestions"),
    ("told", "description"),
    ("trouble", "warning"),
    ("voice", "observer"),
];

/// Phrases of that dialect, which no comment, message or page uses, and what they mean.
const OLD_PHRASES: &[(&str, &str)] = &[
    ("brain float", "bf16"),
    ("few bits", "quantization"),
    ("hangs on it", "depends on it"),
    ("hang on it", "depend on it"),
    ("nobody's business", "secret"),
    ("what it hears", "the transcript"),
    ("a model hears", "the transcript"),
    ("writes down what", "transcribes"),
    ("recogniser", "recognizer"),
];

const LONGEST: usize = 600;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every file below a folder, by its path in it.
fn below(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
            }
        }
    }
    found
}

/// A text without its unit tests, which may use what they like.
fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// The program's sources, by their path in `src`.
fn sources() -> BTreeMap<String, String> {
    sources_of("src")
}

fn sources_of(folder: &str) -> BTreeMap<String, String> {
    below(&at(folder)).into_iter().filter(|(name, _)| name.ends_with(".rs")).map(|(name, text)| (name, without_tests(&text))).collect()
}

fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The top-level modules of its crate that a file uses, by `crate::` or by `super::` out of its own module.
fn uses(file: &str, text: &str) -> BTreeSet<String> {
    let code = code(text);
    let depth = file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let mut found = BTreeSet::new();
    for way in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (position, _) in code.match_indices(&way) {
            let before = &code[..position];
            if before.ends_with('$') || before.ends_with("super::") {
                continue;
            }
            let rest = &code[position + way.len()..];
            let names = if let Some(list) = rest.strip_prefix('{') { list.split('}').next().unwrap() } else { rest };
            let list = if rest.starts_with('{') { names.split(',').collect() } else { vec![names] };
            for name in list {
                found.insert(name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (folder, layers) in CRATES {
        let layer = |name: &str| layers.iter().position(|layer| layer.contains(&name));
        for (file, text) in sources_of(folder) {
            let own = module(&file);
            if matches!(own, "lib" | "main") {
                continue;
            }
            let Some(height) = layer(own) else {
                wrong.push(format!("{folder}/{file}: say in tests/tidy.rs on which layer `{own}` is"));
                continue;
            };
            // Items that `lib.rs` re-exports begin with a capital.
            let modules = uses(&file, &text).into_iter().filter(|used| used != own && used.starts_with(|c: char| c.is_lowercase()));
            for used in modules.filter(|used| layer(used).is_none_or(|below| below >= height)) {
                wrong.push(format!("{folder}/{file} uses `{used}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_architecture_page_shows_these_layers() {
    let page = fs::read_to_string(at("ARCHITECTURE.md")).unwrap();
    for (folder, layers) in CRATES {
        let layers: String = layers.iter().map(|layer| format!("  {}\n", layer.join(" "))).collect();
        assert!(page.contains(&format!("{folder}\n{layers}")), "ARCHITECTURE.md shows other layers of {folder} than tests/tidy.rs");
    }
}

/// `ls src` reads like a table of contents: few entries, and one form of module file.
#[test]
fn folders_are_tables_of_contents() {
    for (folder, _) in CRATES {
        let entries = fs::read_dir(at(folder)).unwrap().count();
        assert!(entries <= 14, "{folder} has {entries} entries: give some of them a folder together");
        let files = sources_of(folder);
        for file in files.keys() {
            let twin = format!("{}/", file.trim_end_matches(".rs"));
            assert!(!files.keys().any(|other| other.starts_with(&twin)), "{folder}/{file} has a folder: it is called mod.rs there");
        }
    }
}

/// Names of modules and public items with the file each is in.
fn public_names() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (folder, _) in CRATES {
        for (file, text) in sources_of(folder) {
            let place = format!("{folder}/{file}");
            found.push((place.clone(), file.trim_end_matches(".rs").rsplit('/').next().unwrap().to_owned()));
            for line in code(&text).lines() {
                let Some(rest) = line.trim_start().strip_prefix("pub") else { continue };
                let rest = if rest.starts_with('(') { rest.split_once(')').map_or("", |(_, rest)| rest) } else { rest };
                let words: Vec<&str> = rest.split_whitespace().filter(|word| !["const", "async", "unsafe"].contains(word)).collect();
                if let [kind, name, ..] = words.as_slice()
                    && ["fn", "struct", "enum", "trait", "type", "mod", "static"].contains(kind)
                {
                    found.push((place.clone(), name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()));
                }
            }
        }
    }
    found
}

#[test]
fn names_are_the_fields_words() {
    let mut wrong = Vec::new();
    for (place, name) in public_names() {
        let spaced: String =
            name.chars().flat_map(|c| if c.is_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] }).collect();
        for word in spaced.split('_') {
            if let Some((old, new)) = OLD_NAMES.iter().find(|(old, _)| *old == word) {
                wrong.push(format!("{place}: `{name}`: instead of `{old}` the field says {new}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_two_public_types_share_a_name() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (folder, _) in CRATES {
        for (file, text) in sources_of(folder) {
            for line in code(&text).lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                if line.starts_with("pub ")
                    && let [_, kind, name, ..] = words.as_slice()
                    && ["struct", "enum", "trait", "type", "union"].contains(kind)
                {
                    let name = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    places.entry(name).or_default().insert(format!("{folder}/{file}"));
                }
            }
        }
    }
    let shared: Vec<String> =
        places.iter().filter(|(_, files)| files.len() > 1).map(|(name, files)| format!("{name}: {files:?}")).collect();
    assert!(shared.is_empty(), "public types that share a name:\n{}", shared.join("\n"));
}

#[test]
fn comments_messages_and_pages_use_plain_words() {
    let mut texts: Vec<(String, String)> = Vec::new();
    for (folder, _) in CRATES {
        texts.extend(below(&at(folder)).into_iter().map(|(name, text)| (format!("{folder}/{name}"), text)));
    }
    for folder in ["docs", "templates/studio"] {
        let pages = below(&at(folder)).into_iter().filter(|(name, _)| [".md", ".html", ".js"].iter().any(|ending| name.ends_with(ending)));
        texts.extend(pages.map(|(name, text)| (format!("{folder}/{name}"), text)));
    }
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        texts.push((page.to_owned(), fs::read_to_string(at(page)).unwrap()));
    }
    let mut wrong = Vec::new();
    for (place, text) in texts {
        for (number, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            for (old, new) in OLD_PHRASES.iter().filter(|(old, _)| lower.contains(old)) {
                wrong.push(format!("{place}:{}: \"{old}\" means {new}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_that_pages_name_are_there() {
    let tests = below(&at("tests"));
    for (page, text) in below(&at("docs")).into_iter().filter(|(page, _)| page.ends_with(".md")) {
        if page.starts_with("reference/code-map") || page.starts_with("reference/settings") || page.starts_with("reference/cli") {
            continue;
        }
        let named: Vec<&str> = text.split('`').filter(|word| word.contains("::") && !word.contains(' ')).collect();
        for name in named {
            let (module, function) = name.rsplit_once("::").unwrap();
            let file = format!("{}.rs", module.replace("::", "/"));
            let there = tests.get(&file).is_some_and(|text| text.contains(&format!("#[test]\nfn {function}()")));
            assert!(there, "docs/{page} names `{name}`, which is not in tests/{file}");
        }
    }
}

#[test]
fn stages_do_not_know_each_other() {
    let sources = sources();
    // A kind is a file of its own, or a folder; the other files are shared by them.
    let implements = |text: &String| text.contains("impl Stage for");
    let kinds: Vec<&str> = sources
        .iter()
        .filter(|(_, text)| implements(text))
        .filter_map(|(file, _)| Some(file.strip_prefix("stages/")?.strip_suffix(".rs")?.trim_end_matches("/mod")))
        .collect();
    assert!(kinds.len() >= 12, "{kinds:?}");
    for kind in &kinds {
        let own = |file: &str| file == format!("stages/{kind}.rs") || file.starts_with(&format!("stages/{kind}/"));
        for (file, text) in sources.iter().filter(|(file, _)| own(file)) {
            for other in kinds.iter().filter(|other| *other != kind) {
                let ways = [format!("super::super::{other}::"), format!("stages::{other}::")];
                let beside = format!("super::{other}::");
                let is_child = file.matches('/').count() > 1 && !file.ends_with("/mod.rs");
                let found =
                    ways.iter().find(|way| text.contains(*way)).or_else(|| (!is_child && text.contains(&beside)).then_some(&beside));
                assert!(found.is_none(), "src/{file} uses {}", found.unwrap());
            }
        }
    }
}

#[test]
fn only_those_who_report_print() {
    for (file, text) in sources().iter().filter(|(file, _)| !matches!(module(file), "report" | "cli" | "main")) {
        for way in ["println!", "eprintln!", "print!(", "eprint!(", "io::stdout()", "io::stderr()"] {
            let found = text.lines().find(|line| line.contains(way) && !line.trim_start().starts_with("//"));
            assert!(found.is_none(), "src/{file} prints: {}", found.unwrap_or_default());
        }
    }
}

#[test]
fn only_the_store_knows_where_the_state_is() {
    for (folder, _) in CRATES {
        for (file, text) in sources_of(folder).iter().filter(|(file, _)| !file.starts_with("cache/store/") && *file != "cache/content.rs") {
            let code = code(text);
            assert!(!code.contains("STATE_FOLDER") && !code.contains("\".voxpipe\""), "{folder}/{file} uses the state folder");
        }
    }
}

#[test]
fn only_the_http_client_and_hf_hub_reach_the_network() {
    // Everything else, the Trackio server included, asks the one client for it.
    for (file, text) in sources().iter().filter(|(file, _)| !file.starts_with("hub/http/") && *file != "hub/download.rs") {
        // The pages are served, which reaches nobody: whoever wants them comes.
        let serves = module(file) == "studio" || file == "cli/studio.rs";
        for way in ["hf_hub", "std::net", "TcpStream", "reqwest"].iter().filter(|way| !serves || **way == "hf_hub" || **way == "reqwest") {
            assert!(!text.contains(way), "src/{file} speaks of {way}");
        }
    }
}

#[test]
fn files_are_short() {
    let long: Vec<_> = CRATES
        .iter()
        .flat_map(|(folder, _)| below(&at(folder)).into_iter().map(move |(file, text)| (format!("{folder}/{file}"), text)))
        .filter(|(file, text)| file.ends_with(".rs") && text.lines().count() > LONGEST)
        .map(|(file, text)| format!("{file} has {} lines: give its second noun a file of its own", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_test_file_and_every_fixture_is_used() {
    let tests = below(&at("tests"));
    let main = &tests["main.rs"];
    let code: String = tests
        .iter()
        .filter(|(file, _)| file.ends_with(".rs"))
        .map(|(_, text)| text.as_str())
        .chain(
            ["crates/voxtral/src", "crates/pipeline/src", "src"]
                .iter()
                .flat_map(|folder| sources_of(folder).into_values())
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
        .collect();
    for file in tests.keys() {
        let name = file.rsplit('/').next().unwrap();
        let used = match file.strip_suffix(".rs") {
            Some("main") => true,
            Some(test) if !test.contains('/') => main.contains(&format!("mod {test};")),
            Some(test) => {
                let (parent, test) = test.rsplit_once('/').unwrap();
                let declares = |file: String| tests.get(&file).is_some_and(|text| text.contains(&format!("mod {test};")));
                declares(format!("{parent}.rs")) || declares(format!("{parent}/mod.rs"))
            }
            // What a fixture was made with is there for people.
            None if name == "README.md" || name.ends_with(".py") || name.ends_with(".sh") => true,
            // A fixture is named by a test, or lies in a folder that a test reads as a whole.
            None => {
                let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
                let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
                code.contains(stem) || folder.split('/').any(|folder| code.contains(&format!("tests/{folder}\"")))
            }
        };
        assert!(used, "tests/{file} is used by no test");
    }
}
