//! SIGKILL at random moments of whole runs.

use super::results;
use crate::support::{Ran, Sandbox, signal};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Twelve stages: three parallel chains from a common start, joined at the end. Each writes its result in pieces, slowly enough to be
/// interrupted.
fn project() -> Sandbox {
    let mut text = "schema = 1\n[pipeline]\nname = \"twelve\"\n".to_owned();
    for number in 0..12 {
        let from = match number {
            0 => String::new(),
            11 => "from = { before = [\"s10\", \"s7\", \"s4\"] }\n".to_owned(),
            _ => format!("from = {{ before = \"s{}\" }}\n", if number < 4 { 0 } else { number - 3 }),
        };
        let before = match number {
            0 => String::new(),
            11 => ", \"${from.before.0}\", \"${from.before.1}\", \"${from.before.2}\"".to_owned(),
            _ => ", \"${from.before}\"".to_owned(),
        };
        text.push_str(&format!(
            "[stage.s{number}]\nuses = \"command\"\n{from}with = {{ run = [\"sh\", \"stage.sh\", \"{number}\", \"${{out}}\"{before}] }}\n"
        ));
    }
    let sandbox = Sandbox::new();
    sandbox.pipeline(&text).file(
        "stage.sh",
        "number=$1 out=$2; shift 2\nmkdir $out/parts\nfor folder; do cat $folder/all >> $out/all; done\n\
         for part in 1 2 3 4 5; do echo \"stage $number, part $part\" >> $out/all; sleep 0.003; cp $out/all $out/parts/$part; done\n",
    );
    sandbox
}

/// VOXPIPE_KILLS sets the number of kills. Their times come from a fixed seed, and vary with the load of the machine.
#[test]
fn kill_9_at_random_moments_of_whole_runs() {
    let kills: u32 = std::env::var("VOXPIPE_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12);
    let undisturbed = project();
    let begun = Instant::now();
    undisturbed.run(&["run"]).exits(0);
    let whole = begun.elapsed();
    let expected = results(&undisturbed, "twelve");
    let text = String::from_utf8(expected["s11"]["all"].clone()).unwrap();
    assert!(text.starts_with("stage 0, part 1\n") && text.ends_with("stage 11, part 5\n"), "{text}");
    assert_eq!(expected.len(), 12);

    let (mut done, mut seed, mut runs) = (0, 0x9e37_79b9_7f4a_7c15_u64, 0);
    while done < kills {
        let sandbox = project();
        loop {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let share = (seed >> 11) as f64 / (1_u64 << 53) as f64;
            let mut run = sandbox.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let until = Instant::now() + whole.mul_f64(share * 0.6);
            while Instant::now() < until && run.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if run.try_wait().unwrap().is_none() && done < kills {
                signal(&run, "KILL");
                done += 1;
            }
            let ran = Ran::of(run.wait_with_output().unwrap());
            match ran.code {
                Some(0) => break,
                // Killed.
                None => {}
                Some(_) => panic!("after {done} kills a run did not go on by itself: {}", ran.stderr),
            }
        }
        runs += 1;
        assert_eq!(results(&sandbox, "twelve"), expected, "after {done} kills");
    }
    assert!(runs > 0);
}
