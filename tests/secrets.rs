//! One rule for secrets: which variables are secret, that their values are in nothing that is said or kept, and that no file holds one.

use crate::support::{Ran, Sandbox, files};

/// A token as the Hub makes them, which is none.
fn token() -> String {
    ["hf", "_", "AbCdEfGhIjKlMnOpQrStUvWx", "0123456789"].concat()
}

/// Whether anything that was printed, or any file of the state, contains a text.
fn is_told(sandbox: &Sandbox, ran: &Ran, text: &str) -> bool {
    let kept = files(&sandbox.path(".voxpipe"));
    let in_files = kept.values().any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    in_files || kept.keys().any(|name| name.contains(text)) || ran.stdout.contains(text) || ran.stderr.contains(text)
}

#[test]
fn a_secret_is_in_nothing_that_is_said_or_kept_whatever_its_form() {
    let sandbox = Sandbox::new();
    sandbox.pipeline(
        r#"schema = 1
[pipeline]
name = "p"
[stage.a]
uses = "command"
with = { run = ["sh", "say.sh", "${out}"], env = ["API_KEY", "ODD_NAME"] }
"#,
    );
    let script = r#"echo "user:$API_KEY@host"
echo "$API_KEY" | base64
printf 'user:%s' "$API_KEY" | base64
printf 'ab%s' "$API_KEY" | base64 -w0; echo
echo "$API_KEY" | sed 's/-/%2D/g'
echo "$API_KEY" | sed 's/-/\\u002d/g'
echo "{\"note\": \"$API_KEY\"}"
echo "err $API_KEY" >&2
echo "{\"progress\": {\"done\": 1, \"total\": 2, \"unit\": \"$API_KEY\", \"detail\": \"at $API_KEY\"}}"
echo "{\"metrics\": {\"$API_KEY\": 1, \"$(echo "$API_KEY" | base64)\": 2, \"other\": \"x$API_KEY\"}}"
echo "also $ODD_NAME"
exit 1
"#;
    sandbox.file("say.sh", script);
    let secret = "s3cret-Val-ue/42";
    let ran = Ran::of(sandbox.command(&["run"]).env("API_KEY", secret).env("ODD_NAME", "declared-value").output().unwrap()).exits(1);
    let forms = [
        secret,
        "s3cret%2DVal",
        "czNjcmV0LVZhbC11ZS80M",
        "NjcmV0LVZhbC11ZS80",
        "M2NyZXQtVmFsLXVlLzQ",
        "s3cret\\u002dVal",
        "declared-value",
    ];
    for form in forms {
        assert!(!is_told(&sandbox, &ran, form), "{form} in:\n{}\n{}", ran.stdout, ran.stderr);
    }
    assert!(ran.stderr.contains("user:[redacted]@host") && ran.stderr.contains("err [redacted]"), "{}", ran.stderr);
    let events = sandbox.run(&["logs"]).exits(0).stdout;
    assert!(events.contains("1/2 [redacted] at [redacted]") && events.contains("[redacted] 1"), "{events}");
}

#[test]
fn what_looks_like_a_token_is_redacted_without_any_variable() {
    let sandbox = Sandbox::new();
    let script = "echo got $(cat token)\necho https://me:hunter2pass@host/x\nexit 3\n";
    sandbox.file("token", &token()).file("say.sh", script).pipeline(
        "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = { run = [\"sh\", \"say.sh\", \"${out}\"] }\n",
    );
    let ran = sandbox.run(&["run"]).exits(1).complains("got [redacted]").complains("https://me:[redacted]@host/x");
    assert!(!is_told(&sandbox, &ran, &token()) && !is_told(&sandbox, &ran, "hunter2pass"));
}

#[test]
fn one_rule_decides_what_a_program_and_a_setting_may_see() {
    let secret = [
        ("MYSQL_PASSWD", "x"),
        ("DB_PASS", "x"),
        ("GITHUB_PAT", "x"),
        ("CREDENTIALS", "x"),
        ("apiKey", "x"),
        ("DATABASE_URL", "pg://me:pw@host/db"),
    ];
    let plain = [
        ("TOKENIZERS_PARALLELISM", "false"),
        ("KEYMAP", "de"),
        ("MONKEY_HOME", "/m"),
        ("COMPASS", "n"),
        ("PASSAGE", "p"),
        ("MAX_TOKENS", "9"),
    ];
    let token = token();
    let by_value = ("PLAIN_NAME", token.as_str());
    let sandbox = Sandbox::new();
    let file = |setting: &str| {
        format!(
            "schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"sh\", \"-c\", \"env > $0/seen; : {setting}\", \"${{out}}\"] }}\n"
        )
    };
    sandbox.pipeline(&file(""));
    let run = |args: &[&str]| {
        let mut command = sandbox.command(args);
        command.envs(secret).envs(plain).env(by_value.0, by_value.1);
        Ran::of(command.output().unwrap())
    };
    run(&["run"]).exits(0);
    let seen = sandbox.read(".voxpipe/latest/p/a/seen");
    let has = |name: &str| seen.lines().any(|line| line.starts_with(&format!("{name}=")));
    for (name, _) in secret.into_iter().chain([by_value]) {
        assert!(!has(name), "{name} in:\n{seen}");
        sandbox.pipeline(&file(&format!("${{env.{name}}}")));
        let refused = run(&["check"]).exits(2).complains("looks like");
        assert!(!refused.stderr.contains(&token) && !refused.stderr.contains("me:pw"), "{}", refused.stderr);
    }
    for (name, _) in plain {
        assert!(has(name), "no {name} in:\n{seen}");
        sandbox.pipeline(&file(&format!("${{env.{name}}}")));
        run(&["check"]).exits(0);
    }
}

#[test]
fn a_literal_secret_is_refused_wherever_it_stands_and_never_shown() {
    let sandbox = Sandbox::new();
    let token = token();
    let whole = |params: &str, with: &str, rest: &str| {
        format!(
            "schema = 1\n{rest}\n[pipeline]\nname = \"p\"\n[params]\nx = \"1\"\n{params}\n[stage.a]\nuses = \"command\"\nwith = {{ run = [\"true\", \"${{out}}\", {with}] }}\n"
        )
    };
    let escaped = format!("\"\\u0068{}\"", &token[1..]);
    let url = "\"postgres://me:hunter2pass@host/db\"";
    let cases = [
        whole(&format!("t = \"{token}\""), "", ""),
        whole("", &format!("\"--token={token}\""), ""),
        whole("", &format!("\"a\", {escaped}"), ""),
        whole(&format!("l = [\"a\", {{ b = '{token}' }}]"), "", ""),
        whole(&format!("\"{token}\" = 1"), "", ""),
        whole("", "", &format!("# once: {token}")),
        whole(&format!("t = {url}"), "", ""),
        whole("hf_token = \"hunter2pass\"", "", ""),
        format!("{}[profile.p]\nset = {{ x = \"{token}\" }}\n", whole("", "", "")),
    ];
    for text in cases {
        sandbox.pipeline(&text);
        for args in [&["check"][..], &["check", "--json"], &["check", "--show-origin"], &["plan"], &["run"]] {
            let ran = sandbox.run(args).exits(2);
            assert!(format!("{}{}", ran.stdout, ran.stderr).contains("this looks like"), "{args:?}: {}\nof\n{text}", ran.stderr);
            for secret in [token.as_str(), &token[5..], "hunter2pass"] {
                assert!(!is_told(&sandbox, &ran, secret), "{args:?}:\n{}\n{}", ran.stdout, ran.stderr);
            }
        }
    }
    // In an included file the place is named there; on the command line it is the argument.
    sandbox.file("more.toml", &format!("[params]\nt = \"{token}\"\n")).pipeline(&whole("", "", "include = [\"more.toml\"]"));
    let ran = sandbox.run(&["check"]).exits(2).complains("more.toml:2:6");
    assert!(!ran.stderr.contains(&token));
    sandbox.pipeline(&whole("", "", ""));
    for argument in [format!("x={token}"), "x=https://me:hunter2pass@host".to_owned()] {
        for args in [&["run", "--set", &argument][..], &["check", "--json", "--set", &argument], &["sweep", "--set", &argument]] {
            let ran = sandbox.run(args).exits(2);
            assert!(!is_told(&sandbox, &ran, &argument[2..]) && !is_told(&sandbox, &ran, "hunter2pass"), "{}", ran.stderr);
        }
    }
    sandbox.run(&["check", "--set", "x=user:pass@host", "--set", "x=hf_model"]).exits(0);
}

#[test]
fn a_secret_for_a_key_that_cannot_be_set_is_not_shown() {
    let sandbox = Sandbox::new();
    sandbox.pipeline("schema = 1\n[pipeline]\nname = \"p\"\n[stage.a]\nuses = \"command\"\nwith = { run = [\"true\"] }\n");
    for set in [
        "password=hunter2x",
        "password='hunter2x'",
        "password=[hunter2x, hunter2x]",
        "password=[\"hunter2x\", \"hunter2x\"]",
        "stage.a.with.password=hunter2x",
        "stage.none.with.password=hunter2x",
        "stage.a.with.variables={ api_key = \"hunter2x\", more = \"hunter2x\" }",
        "stage.none.with.variables={ api_key = \"hunter2x\", more = \"hunter2x\" }",
    ] {
        for more in [&[] as &[&str], &["--json"]] {
            let told = sandbox.run(&[&["check", "--set", set], more].concat()).exits(2);
            let all = told.stdout + &told.stderr;
            assert!(all.contains("a secret, by the name of its key") && !all.contains("hunter2x"), "{set}: {all}");
        }
    }
    sandbox.pipeline("schema = 1\n[pipeline]\nname = \"p\"\n[params]\npasswords = [\"hunter2x\", \"hunter3x\"]\n");
    let told = sandbox.run(&["check"]).exits(2).complains("a secret, by the name of its key").stderr;
    assert!(!told.contains("hunter"), "{told}");
    // A reference and a placeholder are none.
    sandbox.pipeline("schema = 1\n[pipeline]\nname = \"p\"\n[params]\napi_keys = [\"<your key>\"]\n[stage.a]\nuses = \"command\"\nwith = { run = [\"true\"] }\n");
    sandbox.run(&["check", "--set", "api_keys=<another>"]).exits(0);
}
