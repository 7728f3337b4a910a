//! Values of `--set`: each is read as the type that its key has.

use crate::support::Sandbox;

const FILE: &str = r#"schema = 1
[pipeline]
name = "p"
[params]
s = "word"
n = 5
f = 0.5
b = true
l = ["x"]
[stage.a]
uses = "command"
with = { run = ["sh", "-c", "echo \"$1|$2|$3|$4\" > $0/x", "${out}", "${params.s}", "${params.n}", "${params.f}", "${params.b}"] }
"#;

#[test]
fn a_text_stays_a_text_and_a_number_a_number() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(FILE);
    let made = |sets: &[&str]| {
        let args: Vec<&str> = ["run"].into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
        sandbox.run(&args).exits(0);
        sandbox.read(".voxpipe/latest/p/a/x").trim().to_owned()
    };
    for text in ["1_1_1", "0x10", "true", "1e5", "007", "2026-01-02", "[1]", "1.", "inf", "a b"] {
        assert_eq!(made(&[&format!("s={text}")]), format!("{text}|5|0.5|true"));
    }
    assert_eq!(made(&["s='q'", "n=7", "f=1e-3", "b=False"]), "q|7|1e-3|false");
    assert_eq!(made(&["n=2.5"]), "word|2.5|0.5|true", "a number may have a fraction where the file has none");
    for (set, hint) in [("f=.5", "write `0.5`"), ("n=1.", "write `1.0`"), ("b=yes", "write `true` or `false`")] {
        sandbox.run(&["run", "--set", set]).exits(2).complains(hint);
    }
    for (set, told) in [
        ("n=abc", "`n` is a number, not `abc`"),
        ("n=true", "`n` is a number, not `true`"),
        ("n=", "`n` is a number, and no value is given"),
        ("params.n=99999999999999999999", "too large"),
        ("f=1e999", "too large"),
        ("f=0,5", "decimals follow a point: `0.5`"),
        ("stage.a.retry.times=abc", "`stage.a.retry.times` is a number, not `abc`"),
    ] {
        sandbox.run(&["check", "--set", set]).exits(2).complains(told);
    }
    // The type of a setting is that of its schema, whatever stands in the file.
    sandbox.run(&["check", "--set", "pipeline.name=2026"]).exits(0);
    sandbox.run(&["check", "--set", "stage.a.retry.times=3", "--set", "stage.a.timeout=90s"]).exits(0);
    sandbox.run(&["check", "--set", "stage.a.with.output=1"]).exits(2).complains("must be");
    sandbox.run(&["check", "--set", "stage.a.with.code=[lib, more]"]).exits(0).complains("reads `lib`").complains("reads `more`");
    sandbox.run(&["check", "--set", "stage.a.with.tools=sh,1_1"]).exits(0).complains("1_1");
}

#[test]
fn the_values_of_an_axis_can_be_given() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(&format!("{FILE}[matrix]\naxes = {{ s = [\"a\", \"b\"] }}\n"));
    let listed = |set: &str| {
        let json = sandbox.run(&["sweep", "--list", "--json", "--set", set]).exits(0).json();
        json["combinations"].as_array().unwrap().iter().map(|row| row["settings"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed("axes.s=[1_1, c, d]"), [r#"{"s":"1_1"}"#, r#"{"s":"c"}"#, r#"{"s":"d"}"#]);
    assert_eq!(listed("matrix.axes.s=e"), [r#"{"s":"e"}"#]);
    assert_eq!(listed("axes.n=[1, 2]").len(), 4, "an axis may be new");
    sandbox.run(&["sweep", "--list", "--set", "axes.n=1,abc"]).exits(2).complains("`axes.n[1]` is a number, not `abc`");
    sandbox.run(&["sweep", "--list", "--set", "axes.nosuch=[1, 2]"]).exits(2).complains("unknown param `nosuch`");
    sandbox.run(&["sweep", "--set", "axes.s=[1_1, c]"]).exits(0);
    assert_eq!(sandbox.read(".voxpipe/latest/p/a/x"), "c|5|0.5|true\n");
}
