//! `plan` and `run` never disagree: random pipelines in every spelling that TOML allows, random changes, and both asked after each of them.

use crate::support::{Ran, Sandbox};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// Names that a variable may have and a careless reader would cut short.
const VARIABLES: [&str; 5] = ["PLAIN", "WITH-DASH", "with.dot", "ÄRGER", "_x"];

/// A random project and the environment it is run in.
struct Project {
    sandbox: Sandbox,
    random: ChaCha8Rng,
    file: &'static str,
    variables: BTreeMap<String, String>,
    /// Further files that the main one includes, with the stages each has.
    included: Vec<String>,
    counter: u32,
}

impl Project {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let file = *["pipeline.toml", "other.toml", "conf/pipeline.toml"].choose(&mut random).unwrap();
        let variables = VARIABLES.iter().map(|name| ((*name).to_owned(), "0".to_owned())).collect();
        let mut project = Self { sandbox: Sandbox::new(), random, file, variables, included: Vec::new(), counter: 0 };
        project.write();
        project
    }

    /// A key as it is, in quotes, or with an escape in it.
    fn key(&mut self, name: &str) -> String {
        match self.random.random_range(0..4) {
            0 => format!("\"{name}\""),
            1 => format!("'{name}'"),
            2 => format!("\"\\u{:04x}{}\"", name.chars().next().map_or(0, u32::from), &name[1..]),
            _ => name.to_owned(),
        }
    }

    /// A stage that writes down its word, a file, and a variable.
    fn stage(&mut self, name: &str) -> String {
        let variable = VARIABLES.choose(&mut self.random).unwrap();
        let (with, run, code, uses) = (self.key("with"), self.key("run"), self.key("code"), self.key("uses"));
        let tools = if self.random.random_bool(0.3) { ", tools = [\"mytool\"]" } else { "" };
        self.sandbox.file(&format!("{name}.txt"), "first");
        format!(
            "[stage.{name}]\n{uses} = \"command\"\n{with} = {{ {run} = [\"sh\", \"-c\", \"echo $1 $2 > $0/x; cat {name}.txt >> $0/x\", \
             \"${{out}}\", \"${{params.word}}\", \"${{env.{variable}}}\"], {code} = [\"{name}.txt\"]{tools} }}\n"
        )
    }

    /// The folder of the file, where what it includes lies; the project's root is the folder above `conf`.
    fn folder(&self) -> &'static str {
        if self.file.starts_with("conf/") { "conf/" } else { "" }
    }

    fn write(&mut self) {
        let mut text = String::new();
        if self.random.random_bool(0.3) {
            text.push('\u{feff}');
        }
        let includes = self.random.random_range(0..3);
        if includes > 0 {
            let pattern = self.random.random_bool(0.5);
            let names: Vec<String> = (0..includes).map(|number| format!("inc-{number}.toml")).collect();
            let listed = if pattern { vec!["inc-*.toml".to_owned()] } else { names.clone() };
            let listed: Vec<String> = listed.iter().map(|name| format!("'{name}'")).collect();
            let (key, space) = (self.key("include"), ["", "  ", "\t"].choose(&mut self.random).unwrap());
            text.push_str(&format!("{space}{key}{space}= [ # files\n {} ]\n", listed.join(",\n ")));
            for (number, name) in names.iter().enumerate() {
                let stage = self.stage(&format!("i{number}"));
                let path = format!("{}{name}", self.folder());
                self.sandbox.file(&path, &stage);
                self.included.push(path);
            }
        }
        let root = if self.file.starts_with("conf/") { format!("{} = '..'\n", self.key("root")) } else { String::new() };
        let (schema, params, word) = (self.key("schema"), self.key("params"), self.key("word"));
        text.push_str(&format!("{schema} = 1\n[pipeline]\nname = \"random\"\n{root}[{params}]\n{word} = \"one\"\n"));
        for name in ["a", "b"] {
            text.push_str(&self.stage(name));
        }
        self.sandbox.file(self.file, &text);
        self.sandbox.file("bin/mytool", "#!/bin/sh\n");
        self.make_executable("bin/mytool");
        fs::create_dir_all(self.sandbox.path("early")).unwrap();
    }

    fn make_executable(&self, path: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.sandbox.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn ask(&self, command: &str) -> Value {
        let path = format!("{0}/early:{0}/bin:/usr/local/bin:/usr/bin:/bin", self.sandbox.root().display());
        let ran = self.sandbox.command(&[command, self.file, "--json"]).envs(&self.variables).env("PATH", path).output().unwrap();
        Ran::of(ran).exits(0).json()
    }

    /// The stages that a run would do.
    fn planned(&self) -> BTreeSet<String> {
        let plan = self.ask("plan");
        let stages = plan["steps"].as_array().unwrap_or_else(|| panic!("{plan}"));
        stages.iter().filter(|stage| stage["state"] != "fresh").map(|stage| stage["stage"].as_str().unwrap().to_owned()).collect()
    }

    /// The stages that a run does.
    fn done(&self) -> BTreeSet<String> {
        let report = self.ask("run");
        let stages = report["stages"].as_array().unwrap_or_else(|| panic!("{report}"));
        stages.iter().filter(|stage| stage[1]["result"] != "fresh").map(|stage| stage[0].as_str().unwrap().to_owned()).collect()
    }

    /// Changes something that may or may not matter, and says what.
    fn change(&mut self) -> String {
        self.counter += 1;
        let number = self.counter;
        let main = self.sandbox.read(self.file);
        let included = self.included.choose(&mut self.random).cloned();
        match self.random.random_range(0..9) {
            0 => {
                let name = VARIABLES.choose(&mut self.random).unwrap();
                self.variables.insert((*name).to_owned(), number.to_string());
                format!("{name} is set")
            }
            1 => {
                self.sandbox.file(self.file, &main.replacen("\"one", &format!("\"one{number}"), 1));
                "the parameter has another value".to_owned()
            }
            2 if included.is_some() => {
                let path = included.unwrap();
                let text = self.sandbox.read(&path);
                self.sandbox.file(&path, &text.replace("echo $1", &format!("echo {number} $1")));
                format!("{path} is edited")
            }
            3 if included.is_some() => {
                // The same size, and the old time put back.
                let path = self.sandbox.path(&included.unwrap());
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                let (from, to) = if text.contains("; cat") { ("; cat", " ;cat") } else { (" ;cat", "; cat") };
                fs::write(&path, text.replace(from, to)).unwrap();
                fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
                "an included file has other bytes, the same size and the old time".to_owned()
            }
            4 => {
                let name = ["a", "b", "i0"].choose(&mut self.random).unwrap();
                self.sandbox.file(&format!("{name}.txt"), &format!("text {number}"));
                format!("{name}.txt is edited")
            }
            5 => {
                self.sandbox.file("early/mytool", &format!("#!/bin/sh\n# {number}\n"));
                self.make_executable("early/mytool");
                "a program of the same name comes first in PATH".to_owned()
            }
            7 if self.sandbox.path("early/mytool").exists() => {
                use std::os::unix::fs::PermissionsExt;
                fs::set_permissions(self.sandbox.path("early/mytool"), fs::Permissions::from_mode(0o644)).unwrap();
                "that program may no longer be executed".to_owned()
            }
            6 => {
                self.sandbox.file(self.file, &format!("{main}# {number}\n"));
                "a comment is added".to_owned()
            }
            _ => "nothing".to_owned(),
        }
    }
}

#[test]
fn plan_and_run_agree_after_every_change() {
    let seeds = std::env::var("VOXPIPE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        let mut project = Project::new(seed);
        let all = project.planned();
        assert!(all.len() >= 2 && project.done() == all, "seed {seed}: the first run does everything");
        for round in 0..6 {
            // What changed a moment ago is never taken on trust: old enough, the fast path answers.
            std::thread::sleep(Duration::from_millis(70));
            assert_eq!(project.done(), BTreeSet::new(), "seed {seed}, round {round}: nothing has changed");
            let what = project.change();
            let planned = project.planned();
            let done = project.done();
            assert_eq!(planned, done, "seed {seed}, round {round}: {what}\n{}", project.sandbox.read(project.file));
        }
    }
}
