//! The house stays tidy: who may import whom, who may print, and that nothing lies about unused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the ground up. Each may use those on the lines before its own, and nothing else of ours.
const LAYERS: &[&[&str]] = &[
    &["error", "kernels", "memory"],
    &[
        "artifact",
        "audio",
        "device",
        "diagnostic",
        "event",
        "guard",
        "journal",
        "jsonl",
        "leash",
        "plot",
        "scoring",
        "settings",
        "size",
        "stamp",
        "subtitles",
        "table",
        "template",
    ],
    &["text"],
    &["hub"],
    &["phrase", "pins", "record", "schema", "sources", "stat_index", "voxtral"],
    &["folder", "intake", "matrix", "training", "tree"],
    &["bench", "fingerprint", "overrides", "release", "substitute"],
    &["origins", "stage", "why"],
    &["manifest", "store"],
    &["migration", "pipeline"],
    &["graph", "plan", "report"],
    &["executor"],
    &["memo", "run"],
    &["studio"],
    &["cli"],
    &["main"],
];

/// Modules that may use even less than what lies below them.
const ONLY: &[(&str, &[&str])] = &[
    // These two could be a package of their own the day somebody else wants them.
    ("audio", &["error"]),
    ("kernels", &[]),
    ("voxtral", &["audio", "error", "kernels"]),
    ("training", &["artifact", "audio", "device", "error", "event", "jsonl", "record", "voxtral"]),
    // Reporters tell what they hear, and know nothing of how it came about.
    ("report", &["error", "event", "hub", "journal"]),
    ("diagnostic", &[]),
    ("event", &[]),
    ("hub", &["error", "text"]),
    ("journal", &["error"]),
    ("plot", &[]),
    ("size", &[]),
    ("subtitles", &[]),
    ("error", &[]),
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

/// The sources without their unit tests, which may use what they like.
fn sources() -> BTreeMap<String, String> {
    let cut = |text: String| text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
    below(&at("src")).into_iter().filter(|(name, _)| name.ends_with(".rs")).map(|(name, text)| (name, cut(text))).collect()
}

fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules of ours that a text uses, comments left aside.
fn uses(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut found = BTreeSet::new();
    for (position, _) in code.match_indices("crate::") {
        let rest = &code[position + "crate::".len()..];
        if code[..position].ends_with("$") {
            continue;
        }
        let names = if let Some(list) = rest.strip_prefix('{') { list.split('}').next().unwrap() } else { rest };
        let list = if rest.starts_with('{') { names.split(',').collect() } else { vec![names] };
        for name in list {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let own = module(&file);
        if own == "lib" {
            continue;
        }
        let Some(height) = layer(own) else {
            wrong.push(format!("src/{file}: say in tests/tidy.rs on which layer `{own}` is"));
            continue;
        };
        for used in uses(&text).iter().filter(|used| *used != own) {
            let allowed = ONLY.iter().find(|(name, _)| *name == own).map(|(_, only)| only.contains(&used.as_str()));
            if !allowed.unwrap_or_else(|| layer(used).is_some_and(|below| below < height)) {
                wrong.push(format!("src/{file} uses `{used}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_architecture_page_is_true() {
    let page = fs::read_to_string(at("ARCHITECTURE.md")).unwrap();
    let layers: String = LAYERS.iter().map(|layer| format!("{}\n", layer.join(" "))).collect();
    assert!(page.contains(&format!("```text\n{layers}```")), "ARCHITECTURE.md shows other layers than tests/tidy.rs");

    let map = page.split("## Code map").nth(1).unwrap().split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let shown: BTreeSet<&str> = map.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let sources = sources();
    let there: BTreeSet<&str> = sources.keys().map(String::as_str).filter(|file| *file != "lib.rs").collect();
    assert_eq!(shown, there, "the code map of ARCHITECTURE.md and the files in src");
}

#[test]
fn tests_that_pages_name_are_there() {
    let tests = below(&at("tests"));
    for (page, text) in below(&at("docs")).into_iter().filter(|(page, _)| page.ends_with(".md")) {
        let named: Vec<&str> = text.split('`').filter(|word| word.contains("::") && !word.contains(' ')).collect();
        assert!(!named.is_empty(), "docs/{page} names no test");
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
    let kinds: Vec<_> =
        sources.keys().filter_map(|file| file.strip_prefix("stage/")?.strip_suffix(".rs")).filter(|kind| *kind != "mod").collect();
    for kind in &kinds {
        let text = &sources[&format!("stage/{kind}.rs")];
        for other in kinds
            .iter()
            .filter(|other| *other != kind && !kind.starts_with(&format!("{other}/")) && !other.starts_with(&format!("{kind}/")))
        {
            for way in [format!("super::{other}::"), format!("stage::{other}::")] {
                assert!(!text.contains(&way), "src/stage/{kind}.rs uses {way}");
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
    for (file, text) in sources().iter().filter(|(file, _)| module(file) != "store" && *file != "tree.rs") {
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        assert!(!code.contains("STATE_FOLDER") && !code.contains("\".voxpipe\""), "src/{file} speaks of the state folder");
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
    let long: Vec<_> = below(&at("src"))
        .into_iter()
        .filter(|(file, text)| file.ends_with(".rs") && text.lines().count() > LONGEST)
        .map(|(file, text)| format!("src/{file} has {} lines: give its second noun a file of its own", text.lines().count()))
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
        .chain(sources().values().map(String::as_str))
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
