//! `plan` and `run` never disagree: random pipelines in every spelling that TOML allows, one random change of anything that may decide (texts,
//! files, links, variables, `PATH`, the lock file, the store, the working folder), and both asked after each of them.

use crate::support::{Ran, Sandbox};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

/// Names that a variable may have and a careless reader would cut short.
const VARIABLES: [&str; 5] = ["PLAIN", "WITH-DASH", "with.dot", "ÄRGER", "_x"];

/// A random project and the environment it is run in.
struct Project {
    sandbox: Sandbox,
    random: ChaCha8Rng,
    file: &'static str,
    /// Variables that the pipeline may name; every one of them is set at first.
    variables: BTreeMap<String, String>,
    /// The folders of `PATH` before those of the system.
    folders: Vec<&'static str>,
    /// The folder in the project in which the program is started.
    started_in: &'static str,
    /// Further files that the main one includes, with the stages each has.
    included: Vec<String>,
    counter: u32,
}

impl Project {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let file = *["pipeline.toml", "other.toml", "conf/pipeline.toml"].choose(&mut random).unwrap();
        let variables = VARIABLES.iter().map(|name| ((*name).to_owned(), "0".to_owned())).collect();
        let (folders, started_in) = (vec!["early", "venv/bin", "bin"], "");
        let mut project = Self { sandbox: Sandbox::new(), random, file, variables, folders, started_in, included: Vec::new(), counter: 0 };
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
        let tools = [
            "",
            "",
            ", tools = [\"mytool\"]",
            ", tools = [\"python\"]",
            ", tools = [\"venv/bin/python\", \"mytool\"]",
            ", tools = [\"python\"], ignore = [\"*.log\"]",
        ];
        let tools = tools.choose(&mut self.random).unwrap();
        self.sandbox.file(&format!("{name}.txt"), "first");
        format!(
            "[stage.{name}]\n{uses} = \"command\"\n{with} = {{ {run} = [\"sh\", \"-c\", \"echo $1 $2 {name} > $0/x; cat {name}.txt >> $0/x\", \
             \"${{out}}\", \"${{params.word}}\", \"${{env.{variable}}}\"], {code} = [\"{name}.txt\", \"lib\"]{tools} }}\n"
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
        self.sandbox.file("bin/mytool", "#!/bin/sh\n").file("lib/code.py", "1").file("unrelated/x", "");
        self.make_executable("bin/mytool");
        // Two environments, of which a link chooses one; their interpreters are links as well.
        for (venv, version) in [("venv-a", "3.11"), ("venv-b", "3.12")] {
            let python = format!("pythons/python{version}");
            self.sandbox.file(&python, &format!("#!/bin/sh\n# {version}\n")).file(&format!("{venv}/pyvenv.cfg"), version);
            self.make_executable(&python);
            fs::create_dir_all(self.sandbox.path(venv).join("bin")).unwrap();
            symlink(format!("../../{python}"), self.sandbox.path(venv).join("bin/python")).unwrap();
        }
        symlink("venv-a", self.sandbox.path("venv")).unwrap();
        fs::create_dir_all(self.sandbox.path("early")).unwrap();
    }

    /// Points a link to another place.
    fn point(&self, link: &str, target: &str) {
        fs::remove_file(self.sandbox.path(link)).unwrap();
        symlink(target, self.sandbox.path(link)).unwrap();
    }

    /// A random file of a folder of the state, if there is one.
    fn of_state(&mut self, folder: &str) -> Option<PathBuf> {
        let mut open = vec![self.sandbox.path(".voxpipe").join(folder)];
        let mut files = Vec::new();
        while let Some(next) = open.pop() {
            for path in fs::read_dir(next).into_iter().flatten().map(|entry| entry.unwrap().path()) {
                if path.is_dir() && !path.is_symlink() { open.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files.choose(&mut self.random).cloned()
    }

    fn make_executable(&self, path: &str) {
        fs::set_permissions(self.sandbox.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn ask(&self, command: &str) -> Ran {
        let folders: Vec<String> = self.folders.iter().map(|folder| self.place(folder)).collect();
        let path = [folders, vec!["/usr/local/bin:/usr/bin:/bin".to_owned()]].concat().join(":");
        let up = self.started_in.split('/').filter(|part| !part.is_empty()).map(|_| "../").collect::<String>();
        let file = format!("{up}{}", self.file);
        let mut asked = self.sandbox.command(&[command, &file, "--json"]);
        Ran::of(asked.current_dir(self.sandbox.path(self.started_in)).envs(&self.variables).env("PATH", path).output().unwrap())
    }

    /// A folder in `PATH`: of the project, unless it is relative.
    fn place(&self, folder: &str) -> String {
        folder.strip_prefix("./").map_or_else(|| self.sandbox.path(folder).display().to_string(), str::to_owned)
    }

    /// The stages that a run would do, or the exit code if the plan fails.
    fn planned(&self) -> Result<BTreeSet<String>, Option<i32>> {
        let ran = self.ask("plan");
        if ran.code != Some(0) {
            return Err(ran.code);
        }
        let plan = ran.json();
        let stages = plan["steps"].as_array().unwrap_or_else(|| panic!("{plan}"));
        let stale = stages.iter().filter(|stage| stage["state"] != "fresh");
        Ok(stale.map(|stage| stage["stage"].as_str().unwrap().to_owned()).collect())
    }

    /// The stages that a run does or tries, or the exit code if it does not begin.
    fn done(&self) -> Result<BTreeSet<String>, Option<i32>> {
        let ran = self.ask("run");
        if ran.stdout.is_empty() {
            return Err(ran.code);
        }
        let report: Value = ran.json();
        let stages = report["stages"].as_array().unwrap_or_else(|| panic!("{report}"));
        Ok(stages.iter().filter(|stage| stage[1]["result"] != "fresh").map(|stage| stage[0].as_str().unwrap().to_owned()).collect())
    }

    /// Changes something that may or may not matter, and says what.
    fn change(&mut self) -> String {
        self.counter += 1;
        let number = self.counter;
        let main = self.sandbox.read(self.file);
        let included = self.included.choose(&mut self.random).cloned();
        match self.random.random_range(0..26) {
            9 => {
                let name = VARIABLES.choose(&mut self.random).unwrap();
                self.variables.insert((*name).to_owned(), String::new());
                format!("{name} is empty")
            }
            10 => {
                let name = VARIABLES.choose(&mut self.random).unwrap();
                self.variables.remove(*name);
                format!("{name} is not set")
            }
            11 => {
                self.folders.rotate_left(1);
                format!("PATH starts with {:?}", self.folders[0])
            }
            12 => {
                self.folders.retain(|folder| *folder != "early");
                "PATH is shorter".to_owned()
            }
            13 => {
                // What a relative folder means is decided by the project, not by the folder one stands in.
                self.folders.insert(0, "./early");
                "PATH starts with a relative folder".to_owned()
            }
            14 => {
                let target = *["venv-a", "venv-b", "venv-gone"].choose(&mut self.random).unwrap();
                self.point("venv", target);
                format!("the environment is {target}")
            }
            15 => {
                let target = *["../../pythons/python3.11", "../../pythons/python3.12"].choose(&mut self.random).unwrap();
                self.point("venv-a/bin/python", target);
                format!("python is {target}")
            }
            16 => {
                self.sandbox.file("pythons/python3.11", &format!("#!/bin/sh\n# upgraded {number}\n"));
                "an interpreter is upgraded in its place".to_owned()
            }
            17 => {
                let format = *["1", "1\n", "2", "", "one"].choose(&mut self.random).unwrap();
                self.sandbox.file(".voxpipe/format", format);
                format!("the format of the state is {format:?}")
            }
            18 => {
                let folder = *["keys", "store", "trees"].choose(&mut self.random).unwrap();
                let Some(file) = self.of_state(folder) else { return "nothing".to_owned() };
                fs::remove_file(&file).unwrap();
                format!("{} is gone", file.display())
            }
            19 => {
                let folder = *["keys", "store", "trees", "memo", "last"].choose(&mut self.random).unwrap();
                let Some(file) = self.of_state(folder) else { return "nothing".to_owned() };
                fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
                fs::write(&file, format!("damage {number}")).unwrap();
                format!("{} is damaged", file.display())
            }
            20 => {
                let lock = PathBuf::from(self.file).with_extension("lock");
                let text = *["version = 1\n", "version = 9\n", "# nothing\nversion = 1\n"].choose(&mut self.random).unwrap();
                self.sandbox.file(lock.to_str().unwrap(), text);
                format!("the lock file is {text:?}")
            }
            21 => {
                let path = *["lib/__pycache__/code.pyc", "lib/.code.py.swp", "lib/new.log", "lib/new.py"].choose(&mut self.random).unwrap();
                self.sandbox.file(path, &number.to_string());
                format!("{path} is written")
            }
            22 => {
                self.started_in = ["", "lib", "unrelated", "venv-a/bin"].choose(&mut self.random).unwrap();
                format!("the program is started in {:?}", self.started_in)
            }
            23 => {
                let name = *["a", "b"].choose(&mut self.random).unwrap();
                let path = self.sandbox.path(&format!("{name}.txt"));
                fs::remove_file(&path).unwrap();
                fs::write(self.sandbox.path("unrelated/moved"), format!("moved {number}")).unwrap();
                symlink("unrelated/moved", &path).unwrap();
                format!("{name}.txt is a link to a file with other bytes")
            }
            24 => {
                let name = *["HF_HOME", "HOME", "VOXPIPE_UNKNOWN", "CUDA_VISIBLE_DEVICES"].choose(&mut self.random).unwrap();
                self.variables.insert(name.to_owned(), self.sandbox.path("unrelated").display().to_string());
                format!("{name} is set")
            }
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
        assert!(all.as_ref().unwrap().len() >= 2 && project.done() == all, "seed {seed}: the first run does everything");
        for round in 0..8 {
            // What changed a moment ago is never taken on trust: old enough, the fast path answers.
            std::thread::sleep(Duration::from_millis(70));
            let before = project.planned();
            assert_eq!(project.done(), before, "seed {seed}, round {round}: before the change");
            let what = project.change();
            let planned = project.planned();
            let done = project.done();
            assert_eq!(planned, done, "seed {seed}, round {round}: {what}\n{}", project.sandbox.read(project.file));
        }
    }
}
