//! `foreach`: a stage for each entry of a list or a table, the stages that join them, and the arguments of a command with many inputs.

use crate::studio::client::Server;
use crate::support::{Ran, Sandbox, files};
use serde_json::Value;

/// A stage for each language, one that follows each of them, and one that joins all.
const LANGUAGES: &str = r#"
schema = 1
[pipeline]
name = "languages"
[params]
languages = ["de", "fr", "it"]
[stage.import]
uses = "command"
foreach = "${params.languages}"
with = { run = ["sh", "-c", "echo speech in ${each} > $0/text", "${out}"] }
[stage.train]
uses = "command"
foreach = "${params.languages}"
from = { data = "import" }
with = { run = ["sh", "-c", "cat $1/text > $0/model; echo '{\"metrics\": {\"size\": 7}}'", "${out}", "${from.data}"] }
[stage.table]
uses = "command"
from = { parts = "train[*]" }
with = { run = ["sh", "-c", "out=$0; for part; do cat $part/model; done > $out/all", "${out}", "${from.parts...}"] }
"#;

fn languages() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.pipeline(LANGUAGES);
    sandbox
}

/// The names of the steps of a plan in a state.
fn planned(sandbox: &Sandbox, arguments: &[&str], state: &str) -> Vec<String> {
    let plan = sandbox.run(&[&["plan", "--json"], arguments].concat()).exits(0).json();
    let steps = plan["steps"].as_array().unwrap().iter().filter(|step| step["state"] == state);
    steps.map(|step| step["stage"].as_str().unwrap().to_owned()).collect()
}

/// The stages that a run did.
fn done(ran: &Ran) -> Vec<String> {
    let stages = ran.json()["stages"].clone();
    let done = |stage: &Value| (stage[1]["result"] == "done").then(|| stage[0].as_str().unwrap().to_owned());
    stages.as_array().unwrap().iter().filter_map(done).collect()
}

#[test]
fn a_stage_for_each_entry_and_a_join_have_their_names_everywhere() {
    let sandbox = languages();
    sandbox.run(&["check"]).exits(0);
    let all = ["import[de]", "import[fr]", "import[it]", "train[de]", "train[fr]", "train[it]", "table"];
    let ran = sandbox.run(&["run", "--json"]).exits(0);
    let stages: Vec<_> = ran.json()["stages"].as_array().unwrap().iter().map(|stage| stage[0].as_str().unwrap().to_owned()).collect();
    assert_eq!(stages, all);
    assert_eq!(sandbox.read(".voxpipe/latest/languages/table/all"), "speech in de\nspeech in fr\nspeech in it\n");
    assert_eq!(sandbox.read(".voxpipe/latest/languages/import[fr]/text"), "speech in fr\n");
    for (arguments, parts) in [
        (&["status"][..], &["import[de]", "train[it]"][..]),
        (&["plan"], &["import[de]", "7 fresh"]),
        (&["why", "train[fr]"], &["`train[fr]` is fresh"]),
        (&["logs", "import[it]"], &["import[it]"]),
        (&["show"], &["train[de]", "size 7"]),
        (&["graph"], &["train[de]", "data = import[de]", "parts = train[de] + train[fr] + train[it]"]),
        (&["graph", "--format", "mermaid"], &["[\"train[de]<br/>command\"]"]),
        (&["graph", "--format", "dot"], &["\"import[de]\" -> \"train[de]\""]),
        (&["graph", "--format", "svg"], &["train[de]"]),
    ] {
        let told = sandbox.run(arguments).exits(0).stdout;
        for part in parts {
            assert!(told.contains(part), "{arguments:?}: no `{part}` in\n{told}");
        }
    }
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)), [""; 0]);
    let repeated = sandbox.run(&["repro", "--json"]).exits(0).json();
    assert_eq!((repeated["same"].as_bool(), repeated["stages"].as_array().map(Vec::len)), (Some(true), Some(7)), "{repeated}");
    // A new entry runs its own stages and the join; the others stay as they are.
    sandbox.pipeline(&LANGUAGES.replace("\"it\"]", "\"it\", \"nl\"]"));
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)), ["import[nl]", "train[nl]", "table"]);
    assert!(sandbox.read(".voxpipe/latest/languages/table/all").ends_with("speech in it\nspeech in nl\n"));
}

#[test]
fn single_stages_of_a_foreach_are_chosen_forced_and_set() {
    let sandbox = languages();
    assert_eq!(done(&sandbox.run(&["run", "train[de]", "--json"]).exits(0)), ["import[de]", "train[de]"]);
    assert_eq!(done(&sandbox.run(&["run", "import", "--json"]).exits(0)), ["import[fr]", "import[it]"]);
    assert_eq!(done(&sandbox.run(&["run", "--except", "train[it]", "--json"]).exits(0)), ["train[fr]"]);
    assert_eq!(done(&sandbox.run(&["run", "--json"]).exits(0)), ["train[it]", "table"]);
    assert_eq!(done(&sandbox.run(&["run", "--force", "train[*]", "--json"]).exits(0)), ["train[de]", "train[fr]", "train[it]"]);
    for (arguments, complaint) in [
        (&["run", "train[dee]"][..], "did you mean `train[de]`?"),
        (&["run", "train[xyz]"], "`train` is made for"),
        (&["plan", "--only", "trian"], "did you mean `train`?"),
        (&["why", "train", "--json"], "name one of them, such as `train[de]`"),
        (&["why", "import[dee]"], "did you mean `import[de]`?"),
        (&["plan", "--set", "stage.import[es].with.code=[\"x\"]"], "`import` is made for `de`, `fr` and `it`"),
        (&["plan", "--set", "stage.table[de].with.code=[\"x\"]"], "`table` has no `foreach`"),
        (&["plan", "--set", "stage.import[de].with.cod=[\"x\"]"], "did you mean `code`?"),
        (&["plan", "--set", "stage.import[de].timeot=1h"], "did you mean `timeout`?"),
    ] {
        sandbox.run(arguments).exits(2).complains(complaint);
    }
    // One of them, all of them, and of two for the same key the later one.
    let waits = |arguments: &[&str]| planned(&sandbox, arguments, "run");
    let own = "stage.import[fr].with.variables={ A = \"1\" }";
    let every = "stage.import.with.variables={ A = \"2\" }";
    assert_eq!(waits(&["--set", own]), ["import[fr]"]);
    assert_eq!(waits(&["--set", every]), ["import[de]", "import[fr]", "import[it]"]);
    sandbox.run(&["run", "--set", every]).exits(0);
    assert_eq!(waits(&["--set", every, "--set", own]), ["import[fr]"]);
    assert_eq!(waits(&["--set", own, "--set", every]), [""; 0]);
    let origins = sandbox.run(&["check", "--show-origin", "--set", own]).exits(0).stdout;
    assert!(origins.lines().any(|line| line.contains("stage.import[fr].with.variables") && line.contains("--set")), "{origins}");
    // The list itself, by a parameter, by its key, and by a profile.
    assert_eq!(waits(&["--set", "languages=[\"sv\"]"]), ["import[sv]", "train[sv]"]);
    sandbox
        .run(&["plan", "--set", "stage.import.foreach=[\"de\"]"])
        .exits(2)
        .complains("`train[fr]` would take `import[fr]`, which there is not");
    let profiles = "[profile.small]\nset = { languages = [\"de\"], \"stage.train[de].timeout\" = \"1h\" }\n";
    sandbox.pipeline(&format!("{LANGUAGES}{profiles}"));
    let plan = sandbox.run(&["plan", "-p", "small", "--json"]).exits(0).json();
    assert_eq!(plan["steps"].as_array().map(Vec::len), Some(3), "{plan}");
}

#[test]
fn tables_give_each_stage_its_values() {
    for foreach in [
        "{ de = { speech = \"german\", hours = 2 }, \"fr-CA\" = { speech = \"french\", hours = 0.5 } }",
        "[{ name = \"de\", speech = \"german\", hours = 2 }, { name = \"fr-CA\", speech = \"french\", hours = 0.5 }]",
        "\"${params.table}\"",
    ] {
        let sandbox = Sandbox::new();
        sandbox.pipeline(&format!(
            "schema = 1\n[pipeline]\nname = \"p\"\n[params]\n[params.table.de]\nspeech = \"german\"\nhours = 2\n[params.table.fr-CA]\nspeech = \"french\"\nhours = 0.5\n\
             [stage.a]\nuses = \"command\"\nforeach = {foreach}\ntimeout = \"${{each.hours}}h\"\nrequire = {{ n = \">= ${{each.hours}}\" }}\n\
             with = {{ run = [\"sh\", \"-c\", \"echo $1 $2 $3 > $0/x; echo '{{\\\"metrics\\\": {{\\\"n\\\": 2}}}}'\", \"${{out}}\", \"${{each}}\", \
             \"${{each.hours}}\", \"in ${{each.speech}}\"] }}\n\
             [stage.b]\nuses = \"command\"\nforeach = [\"fr-CA\"]\nfrom = {{ one = \"a[${{each}}]\", other = \"a[de]\" }}\nafter = [\"a\"]\n\
             with = {{ run = [\"sh\", \"-c\", \"cat $1/x $2/x > $0/x\", \"${{out}}\", \"${{from.one}}\", \"${{from.other}}\"] }}\n"
        ));
        let hours = if foreach.contains("params") || foreach.contains("0.5") { "0.5h" } else { "" };
        assert!(!hours.is_empty());
        let text = sandbox.read("pipeline.toml").replace("timeout = \"${each.hours}h\"\n", "");
        sandbox.pipeline(&text);
        sandbox.run(&["run"]).exits(0);
        assert_eq!(sandbox.read(".voxpipe/latest/p/b[fr-CA]/x"), "fr-CA 0.5 in french\nde 2 in german\n", "{foreach}");
        // The gate is that of the entry.
        sandbox.pipeline(&text.replace("hours = 2", "hours = 3"));
        sandbox.run(&["run", "a"]).exits(12).complains("stage `a[de]` does not pass its gate: n is 2, which is not >= 3");
    }
}

#[test]
fn entries_keep_their_type_order_and_place_in_the_seed() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nforeach = [10, 9, 0.5, true]\n\
         with = { run = [\"sh\", \"-c\", \"echo $1 $2 > $0/x\", \"${out}\", \"${each}\", \"${seed}\"] }\n\
         [stage.all]\nuses = \"command\"\nfrom = { parts = \"a\" }\nwith = { run = [\"sh\", \"-c\", \"out=$0; for a; do cat $a/x; done > $out/x\", \"${out}\", \"${from.parts...}\"] }\n",
    );
    sandbox.run(&["run"]).exits(0);
    let lines = sandbox.read(".voxpipe/latest/p/all/x");
    let (names, seeds): (Vec<&str>, Vec<&str>) = lines.lines().map(|line| line.split_once(' ').unwrap()).unzip();
    assert_eq!(names, ["10", "9", "0.5", "true"]);
    let distinct: std::collections::BTreeSet<&str> = seeds.iter().copied().collect();
    assert_eq!(distinct.len(), 4, "each stage has a seed of its own: {seeds:?}");
    // Names that differ only in what a file name could not keep apart have results of their own.
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("[10, 9, 0.5, true]", "[\"v1.5\", \"v1-5\", \"v1_5\"]"));
    sandbox.run(&["run"]).exits(0);
    for name in ["v1.5", "v1-5", "v1_5"] {
        assert!(sandbox.read(&format!(".voxpipe/latest/p/a[{name}]/x")).starts_with(&format!("{name} ")));
    }
    // In the settings of other kinds a number stays a number.
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"phrases\"\nforeach = [3, 4]\nwith = { language = \"en\", count = \"${each}\" }\n",
    );
    sandbox.run(&["check"]).exits(0);
}

#[test]
fn a_sweep_varies_and_judges_stages_of_a_foreach() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[params]\nn = 1\n[stage.a]\nuses = \"command\"\nforeach = [\"x\", \"y\"]\n\
         with = { run = [\"sh\", \"-c\", \"echo '{\\\"metrics\\\": {\\\"n\\\": '$1'}}'; echo > $0/x\", \"${out}\", \"${params.n}\"] }\n\
         [matrix]\naxes = { n = [3, 1, 2] }\nbest = { metric = \"a[x].n\" }\n",
    );
    let table = sandbox.run(&["sweep"]).exits(0).stdout;
    assert!(table.contains("best of 3: n=1 with a[x].n 1"), "{table}");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"a[x].n\"", "\"a.n\""));
    sandbox.run(&["sweep"]).exits(2).complains("name one of them, such as \"a[x].n\"");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"a.n\"", "\"a[z].n\""));
    sandbox.run(&["sweep"]).exits(2).complains("unknown stage `a[z]`");
    let axis = "\"stage.a[y].with.variables\" = [{ B = \"1\" }, { B = \"2\" }]";
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("\"a[z].n\"", "\"a[y].n\"").replace("n = [3, 1, 2]", axis));
    assert_eq!(sandbox.run(&["sweep", "--json"]).exits(0).json()["combinations"].as_array().map(Vec::len), Some(2));
}

#[test]
fn an_included_file_may_have_the_foreach_and_another_the_list() {
    let sandbox = languages();
    let (head, stages) = LANGUAGES.split_once("[stage.import]").unwrap();
    sandbox.file("stages.toml", &format!("[stage.import]{stages}"));
    sandbox.pipeline(&head.replace("schema = 1\n", "schema = 1\ninclude = [\"stages.toml\"]\n"));
    assert_eq!(planned(&sandbox, &[], "run").len() + planned(&sandbox, &[], "waits").len(), 7);
    sandbox.file("stages.toml", &format!("[stage.import]{stages}").replace("${params.languages}\"\nwith", "${params.langs}\"\nwith"));
    sandbox.run(&["check"]).exits(2).complains("stages.toml:3:12").complains("unknown param `langs`");
}

/// A command with as many inputs as there are stages.
fn wide(count: usize, argument: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let entries: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"wide\"\n[stage.a]\nuses = \"command\"\nforeach = [{}]\nwith = {{ run = [\"sh\", \"-c\", \"echo ${{each}} > $0/x; echo ran >> ran.txt\", \"${{out}}\"] }}\n\
         [stage.all]\nuses = \"command\"\nfrom = {{ parts = \"a\" }}\n\
         with = {{ run = [\"sh\", \"-c\", \"out=$0; for a; do cat $a/x; done > $out/x\", \"${{out}}\", \"{argument}\"] }}\n",
        entries.join(", ")
    ));
    sandbox
}

#[test]
fn all_inputs_of_a_port_become_arguments() {
    let sandbox = wide(40, "${from.parts...}");
    sandbox.run(&["run"]).exits(0);
    let numbers: Vec<String> = (0..40).map(|number| format!("{number}\n")).collect();
    assert_eq!(sandbox.read(".voxpipe/latest/wide/all/x"), numbers.concat());
    // One input is one argument.
    let sandbox = wide(1, "${from.parts...}");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/wide/all/x"), "0\n");
    // It also works for stages that are listed.
    let sandbox = wide(2, "${from.parts...}");
    sandbox.pipeline(&sandbox.read("pipeline.toml").replace("parts = \"a\"", "parts = [\"a[1]\", \"a[0]\"]"));
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/wide/all/x"), "1\n0\n");
}

#[test]
fn a_reference_to_one_of_many_inputs_is_refused_before_anything_runs() {
    for (argument, complaint, hint) in [
        (
            "${from.parts}",
            "`${from.parts}` stands for one folder, but `parts` has 30 inputs",
            "write `${from.parts...}` as an argument of its own",
        ),
        ("--in=${from.parts}/x", "`parts` has 30 inputs", "or `${from.parts.0}` to `${from.parts.29}` for one"),
        ("${from.parts.30}", "`parts` has only 30 inputs", "the last is `${from.parts.29}`"),
        ("${from.parts.first}", "unknown reference `${from.parts.first}`", "`${from.parts.0}`"),
        ("--in=${from.parts...}", "`${from.parts...}` must be an argument of its own", "one argument for each input"),
        ("${from.part...}", "has no input `part`", "did you mean `parts`?"),
    ] {
        let sandbox = wide(30, argument);
        for command in ["check", "plan", "run"] {
            sandbox.run(&[command]).exits(2).complains(complaint).complains(hint);
        }
        assert!(!sandbox.path("ran.txt").exists(), "{argument}: nothing ran");
    }
    wide(30, "${from.parts.29}").run(&["check"]).exits(0);
    wide(1, "${from.parts}").run(&["check"]).exits(0);
    // The place is the argument itself.
    let sandbox = wide(3, "${from.parts}");
    let line = sandbox.read("pipeline.toml").lines().position(|line| line.contains("${from.parts}")).unwrap() + 1;
    sandbox.run(&["check"]).exits(2).complains(&format!("pipeline.toml:{line}:"));
    let text = sandbox.read("pipeline.toml").replace("\"${from.parts}\"]", "\"x\"], variables = { IN = \"${from.parts...}\" }");
    sandbox.pipeline(&text);
    sandbox.run(&["check"]).exits(2).complains("a variable has one value");
}

#[test]
fn too_many_arguments_for_the_system_are_told() {
    let sandbox = Sandbox::new();
    let word = "x".repeat(200_000);
    sandbox.pipeline(&format!(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"true\", \"{word}\", \"${{out}}\"] }}\n"
    ));
    sandbox.run(&["run"]).exits(2).complains("more than the system allows").complains("join the inputs in several stages");
}

#[test]
fn the_shipped_pipeline_of_languages_runs_and_joins_them() {
    let sandbox = Sandbox::new();
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["datasets/words", "datasets/first-run-es", "pipelines"] {
        for (name, bytes) in files(&own.join(folder)).into_iter().filter(|(name, _)| !name.starts_with("models/")) {
            let path = sandbox.path(folder).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    sandbox.run(&["run", "pipelines/languages.toml"]).exits(0);
    let rows = |stage: &str| sandbox.read(&format!(".voxpipe/latest/languages/{stage}/data.jsonl")).lines().count();
    let (english, spanish) = (rows("dataset[en]"), rows("dataset[es]"));
    assert!(english > 100 && spanish > 30, "{english} {spanish}");
    assert!(rows("together") > english && rows("together") <= english + spanish);
}

#[test]
fn the_example_of_the_guide_is_sound() {
    let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/pipeline-file.md")).unwrap();
    let example =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).find(|text| text.contains("foreach")).unwrap();
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!("schema = 1\n[pipeline]\nname = \"p\"\n{example}"));
    let checked = sandbox.run(&["check"]).exits(0).stdout;
    assert!(checked.contains("5 stages, no errors"), "{checked}");
}

#[test]
fn mistakes_in_the_settings_of_a_foreach_are_told_once() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.clips]\nuses = \"uploads\"\nforeach = [\"de\", \"fr\"]\n\
         with = { audio = \"${each}\", transcripts = \"${each}.csv\", min_clip = 3 }\n\
         [stage.data]\nuses = \"dataset\"\nforeach = [\"de\", \"fr\"]\nfrom = { clips = \"clips\" }\nwith = { folder = \"out\" }\n",
    );
    let told =
        sandbox.run(&["check"]).exits(2).complains("pipeline.toml:7:58").complains("`out` would be written by each stage of the `foreach`");
    assert!(told.stderr.contains("2 errors"), "{}", told.stderr);
    let text = sandbox.read("pipeline.toml");
    sandbox.pipeline(&text.replace(", min_clip = 3", "").replace("\"out\"", "\"out/${each}\""));
    sandbox.run(&["check"]).exits(0);
}

#[test]
fn the_studio_names_the_stages_of_a_foreach_and_writes_to_the_one_in_the_file() {
    let sandbox = languages();
    let server = Server::start(&sandbox, &["studio", "--port", "0"]);
    server.run();
    let state = server.get("/api/state").is(200);
    let steps = state["status"]["steps"].as_array().unwrap().iter().map(|step| step["stage"].as_str().unwrap().to_owned());
    assert_eq!(steps.collect::<Vec<_>>()[..2], ["import[de]", "import[fr]"]);
    assert!(server.get("/api/graph.svg").text().contains("train[it]"));
    assert!(sandbox.read(".voxpipe/latest/languages/table/all").ends_with("speech in it\n"));
    server.stop();
    // A correction of a clip: the setting belongs to the stage as it stands in the file. The file's name has no dot.
    sandbox.file(
        "mine",
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.clips]\nuses = \"uploads\"\nforeach = [\"de\"]\n\
         with = { audio = \"${each}\", transcripts = \"${each}.csv\" }\n[stage.data]\nuses = \"dataset\"\nforeach = [\"de\"]\n\
         from = { clips = \"clips\" }\n",
    );
    let server = Server::start(&sandbox, &["studio", "mine", "--port", "0"]);
    server.post("/api/edits", &serde_json::json!({ "clip": "a", "exclude": true })).is(200);
    let text = sandbox.read("mine");
    assert!(text.contains("edits = \"") && !text.contains("data[de]"), "{text}");
    sandbox.run(&["check", "mine"]).exits(0);
    server.post("/api/run", &serde_json::json!({})).is(200);
    server.idle();
    let trouble = server.get("/api/state").is(200)["trouble"].to_string();
    assert!(!trouble.contains("unknown stage"), "{trouble}");
}

#[test]
fn why_and_plot_take_the_name_of_all_stages_of_a_foreach() {
    let sandbox = languages();
    let file = sandbox.read("pipeline.toml").replace("{\\\"size\\\": 7}}", "{\\\"size\\\": 7}, \\\"step\\\": 1}");
    sandbox.pipeline(&file);
    sandbox.run(&["run"]).exits(0);
    let why = sandbox.run(&["why", "import"]).exits(0).stdout;
    assert!(["de", "fr", "it"].iter().all(|one| why.contains(&format!("`import[{one}]` is fresh"))), "{why}");
    sandbox.run(&["why", "import", "--json"]).exits(2).complains("such as `import[de]`");
    sandbox.run(&["plot", "import"]).exits(2).complains("no stage of `import` has metrics yet");
    let curves = sandbox.run(&["plot", "train", "--json"]).exits(0).json()["curves"].clone();
    assert_eq!(curves.as_array().map(Vec::len), Some(3), "{curves}");
}
