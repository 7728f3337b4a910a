//! Writing pipeline files: `init`, includes, migration of older schemas, and the settings of `command` stages.

use crate::support::Sandbox;
use std::fs;

#[test]
fn each_beginning_is_a_sound_pipeline_and_nothing_is_overwritten() {
    let rows: [(&[&str], &[&str]); 5] = [
        (&["init"], &["uses = \"recordings\"", "name = \"project\"", "language = \"en\", count = 100"]),
        (
            &["init", "--language", "ja", "--name", "Zoé's \"voice\""],
            &["source = \"file\", file = \"phrases.txt\"", "published/Zoe-s-voice"],
        ),
        (
            &["init", "--template", "recordings", "--recordings", "clips"],
            &["uses = \"uploads\"", "transcripts = \"clips/transcripts.csv\""],
        ),
        (&["init", "--template", "recordings", "--transcripts", "txt", "--language", "de"], &["transcripts = \"txt\", language = \"de\""]),
        (&["init", "--template", "hub", "--base", "me/voxtral-fr"], &["base = \"me/voxtral-fr\"", "voxpipe lock"]),
    ];
    for (args, expected) in rows {
        let sandbox = Sandbox::new();
        let told = sandbox.run(args).exits(0).stdout;
        assert!(told.contains("wrote `./pipeline.toml` and `./schema.json`") && told.contains("voxpipe run"), "{told}");
        let text = sandbox.read("pipeline.toml");
        assert!(text.starts_with("#:schema ./schema.json\n# "), "{text}");
        for part in expected {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains("{%") && !text.contains("\n\n\n"), "{text}");
        assert!(sandbox.read("schema.json") == sandbox.run(&["schema"]).exits(0).stdout, "schema.json is not what `voxpipe schema` prints");
        for command in [&["check"][..], &["plan"], &["plan", "-p", "smoke"], &["sweep", "--list"]] {
            let ran = sandbox.run(command).exits(0);
            assert!(!ran.stderr.contains("error"), "{}", ran.stderr);
        }
        // A second `init` never overwrites files.
        sandbox.file("pipeline.toml", "mine").file("schema.json", "mine too");
        sandbox.run(&["init", "--template", "hub", "--base", "a/b"]).exits(2).complains("already exists and is not overwritten");
        assert_eq!((sandbox.read("pipeline.toml"), sandbox.read("schema.json")), ("mine".to_owned(), "mine too".to_owned()));
    }
    let sandbox = Sandbox::new();
    sandbox.run(&["init", "--template", "hub"]).exits(2).complains("add `--base OWNER/NAME`");
    sandbox.run(&["init", "--language", "klingon"]).exits(2).complains("klingon");
    assert!(!sandbox.path("pipeline.toml").exists() && !sandbox.path("schema.json").exists());
    sandbox.file("new/schema.json", "mine");
    let told = sandbox.run(&["init", "new", "--json"]).exits(0).json();
    assert_eq!((&told["file"], &told["schema"]), (&"new/pipeline.toml".into(), &serde_json::Value::Null));
    assert_eq!(sandbox.read("new/schema.json"), "mine");
    assert!(sandbox.read("new/pipeline.toml").contains("name = \"new\""));
}

#[test]
fn on_a_terminal_the_beginning_is_asked_for() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        return crate::support::skipped("a beginning is asked for on a terminal", "there is no `script`, of Debian's bsdutils");
    }
    let sandbox = Sandbox::new();
    let at_terminal = |answers: &str| {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut script = Command::new("script");
        script.args(["-qec", &format!("{} init", env!("CARGO_BIN_EXE_voxpipe")), "/dev/null"]).current_dir(sandbox.root());
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (code, shown) = at_terminal("7\n2\n\nes\nmy clips\ntxt\n");
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(shown.matches("Which template? [1]").count(), 2, "{shown}");
    let text = sandbox.read("pipeline.toml");
    for part in ["name = \"project\"", "audio = \"my clips\", transcripts = \"txt\", language = \"es\""] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn an_older_file_is_brought_along_and_a_newer_one_refused() {
    let sandbox = Sandbox::new();
    let rest = "[pipeline]\nname = \"x\" # mine\n[stage.a]\nuses = \"phrases\"\nwith = { language = \"en\" }\n";
    sandbox.pipeline(&format!("# a comment\n{rest}"));
    sandbox.run(&["check"]).exits(2).complains("missing key `schema`");
    sandbox.run(&["migrate", "--check"]).exits(2);
    assert_eq!(sandbox.read("pipeline.toml"), format!("# a comment\n{rest}"));
    let told = sandbox.run(&["migrate"]).exits(0).stdout;
    assert_eq!(told, "pipeline.toml: migrated to schema 1\n");
    assert_eq!(sandbox.read("pipeline.toml"), format!("# a comment\nschema = 1\n{rest}"));
    sandbox.run(&["check"]).exits(0);
    assert_eq!(sandbox.run(&["migrate"]).exits(0).stdout, "pipeline.toml: already uses schema 1\n");

    sandbox.pipeline("schema = 2\n[pipelines]\nnew = true\n");
    let told = sandbox
        .run(&["check"])
        .exits(2)
        .complains("unsupported schema 2: this version of voxpipe reads schema 1")
        .complains("newer voxpipe");
    assert!(!told.stderr.contains("pipelines"), "what a newer file says is no mistake: {}", told.stderr);
    sandbox.run(&["migrate"]).exits(2).complains("pipeline.toml: the file is written in schema 2").complains("newer voxpipe");
    sandbox.run(&["migrate", "none.toml"]).exits(2).complains("cannot read `none.toml`");
}

#[test]
fn what_is_included_is_named_wherever_it_counts() {
    let sandbox = Sandbox::new();
    sandbox
        .file("shared/words.toml", "[params]\nword = \"hello\"\n[stage.words]\nwith = { run = [\"sh\", \"-c\", \"echo $0 > $1/w\", \"${params.word}\", \"${out}\"] }\n")
        .file("shared/more.toml", "[profile.loud]\nset = { word = \"HELLO\" }\n")
        .pipeline("schema = 1\ninclude = [\"shared/*.toml\"]\n[pipeline]\nname = \"i\"\n[stage.words]\nuses = \"command\"\n");
    let told = sandbox.run(&["check"]).exits(0).stdout;
    assert_eq!(told, "pipeline.toml + shared/more.toml + shared/words.toml: 1 stage, no errors\n");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/i/words/w"), "hello\n");
    // The origin of a value: the file, the profile or the command-line argument.
    let origin = |args: &[&str]| {
        let told = sandbox.run(&[&["check", "--show-origin"], args].concat()).exits(0).stdout;
        told.lines()
            .find(|line| line.trim_start().starts_with("params.word "))
            .unwrap_or_else(|| panic!("{told}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(origin(&[]), "params.word \"hello\" shared/words.toml:2:8");
    assert_eq!(origin(&["-p", "loud"]), "params.word \"HELLO\" shared/more.toml:2:16");
    assert_eq!(origin(&["-p", "loud", "--set", "word=hi"]), "params.word hi --set word=hi");
    let plan = sandbox.run(&["plan", "-p", "loud"]).exits(0).stdout;
    assert!(plan.starts_with("from pipeline.toml + shared/more.toml + shared/words.toml + -p loud\n"), "{plan}");
    assert!(plan.contains("\"hello\" → \"HELLO\""), "{plan}");
    let json = sandbox.run(&["plan", "--json", "--set", "word=x"]).exits(0).json();
    assert_eq!((&json["files"][2], &json["changes"][0]), (&"shared/words.toml".into(), &"--set word=x".into()));

    // Moving a value into an included file does not change fingerprints.
    sandbox.file("shared/words.toml", "[params]\nword = \"hello\"\n").pipeline(
        "schema = 1\ninclude = [\"shared/*.toml\"]\n[pipeline]\nname = \"i\"\n[stage.words]\nuses = \"command\"\n\
         with = { run = [\"sh\", \"-c\", \"echo $0 > $1/w\", \"${params.word}\", \"${out}\"] }\n",
    );
    assert!(sandbox.run(&["plan"]).exits(0).stdout.contains("0 to run, 1 fresh"));

    // Errors in several files are reported together, each with its own line.
    sandbox
        .file("shared/words.toml", "[params]\nword = \"hello\"\n[stage.more]\nuses = \"comand\"\n")
        .file("shared/more.toml", "[stage.words]\nwiht = 1\n");
    let told = sandbox.run(&["check"]).exits(2).complains("shared/words.toml:4:8").complains("did you mean `command`?");
    assert!(
        told.stderr.contains("shared/more.toml:2:1") && told.stderr.contains("did you mean `with`?") && told.stderr.contains("2 errors"),
        "{}",
        told.stderr
    );
    sandbox.pipeline("schema = 1\ninclude = [\"shard/*.toml\"]\n[pipeline]\nname = \"i\"\n[stage.words]\nuses = \"phrases\"\n");
    sandbox.run(&["run"]).exits(2).complains("pipeline.toml:2:12").complains("`shard/*.toml` cannot be included: no file matches");
}

#[test]
fn a_command_runs_again_when_a_tool_is_another_and_gets_its_variables() {
    let sandbox = Sandbox::new();
    let tool = |text: &str| {
        sandbox.file("bin/tool", text);
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(sandbox.path("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    };
    tool("#!/bin/sh\necho one $MODE $KEEP > $1/said\n");
    let pipeline = |more: &str| {
        sandbox.pipeline(&format!(
            "schema = 1\n[pipeline]\nname = \"t\"\n[params]\nmode = \"fast\"\n[stage.it]\nuses = \"command\"\nwith = {{ run = [\"bin/tool\", \"${{out}}\"], tools = [\"bin/tool\", \"sh\"]{more} }}\n"
        ));
    };
    pipeline(", variables = { MODE = \"${params.mode}\", KEEP = \"$${x}\" }");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/t/it/said"), "one fast ${x}\n");
    assert!(sandbox.run(&["plan"]).exits(0).stdout.contains("1 fresh"));
    let plan = sandbox.run(&["plan", "--set", "mode=slow"]).exits(0).stdout;
    assert!(plan.contains("`variables.MODE` \"fast\" → \"slow\""), "{plan}");
    tool("#!/bin/sh\necho two $MODE > $1/said\n");
    let why = sandbox.run(&["why", "it"]).exits(0).stdout;
    assert!(why.contains("`bin/tool`"), "{why}");
    sandbox.run(&["run"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/t/it/said"), "two fast\n");

    // The same program in another folder of PATH has the same fingerprint.
    let elsewhere = sandbox.root().parent().unwrap().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::copy("/bin/sh", elsewhere.join("sh")).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", elsewhere.display());
    let plan = sandbox.command(&["plan"]).env("PATH", &path).output().unwrap();
    assert!(String::from_utf8_lossy(&plan.stdout).contains("1 fresh"), "{}", String::from_utf8_lossy(&plan.stdout));
    fs::write(elsewhere.join("sh"), "another").unwrap();
    let plan = sandbox.command(&["plan"]).env("PATH", &path).output().unwrap();
    assert!(String::from_utf8_lossy(&plan.stdout).contains("1 to run"), "{}", String::from_utf8_lossy(&plan.stdout));

    pipeline(", variables = { MY_TOKEN = \"abc\", \"1x\" = \"\", MODE = \"${ou}\" }, code = [\"lib/*.py\"]");
    let told = sandbox.run(&["check"]).exits(2);
    for part in ["`MY_TOKEN` looks like a secret", "`1x` cannot be", "unknown reference `${ou}`", "`lib/*.py` is a pattern", "4 errors"] {
        assert!(told.stderr.contains(part), "no {part} in {}", told.stderr);
    }
    sandbox.pipeline(
        "schema = 1\n[pipeline]\nname = \"t\"\n[stage.it]\nuses = \"command\"\nwith = { run = [\"true\"], tools = [\"no-such-tool\"] }\n",
    );
    sandbox.run(&["check"]).exits(0).complains("program `no-such-tool`, listed in `tools`, not found");
    sandbox.run(&["run"]).exits(4).complains("program `no-such-tool`, listed in `tools`, not found");
}
