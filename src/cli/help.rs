//! The top-level help: subcommands grouped by heading.
//!
//! clap has no headings for subcommands, so the groups come from [`HEADINGS`] and are written into the help template.

use clap::Command;

/// Headings of `voxpipe --help` with their subcommands, in the order shown. Hidden subcommands have no heading.
const HEADINGS: &[(&str, &[&str])] = &[
    ("Start", &["init", "studio", "record"]),
    ("Run", &["run", "resume", "sweep", "plan", "why", "check", "status"]),
    ("Inspect", &["logs", "runs", "show", "diff", "plot", "report", "graph", "repro"]),
    ("Models", &["transcribe", "demo", "merge"]),
    ("Project", &["lock", "migrate", "schema", "gc", "cache", "export", "import", "trackio"]),
    ("Machine", &["doctor", "bench", "completions"]),
];

/// Exit codes, shown after the options.
pub(super) const EXIT_CODES: &str = "\
Run `voxpipe help COMMAND` for the options of a command.

Exit codes:
    0  success
    1  a stage or an input file failed
    2  invalid pipeline file or command line
    3  another run holds the lock
    4  environment problem: disk space, permissions, device or missing program
   10  parked: waits for a person
   11  timed out
   12  gate not met
   13  repro: results differ
   14  plan --exit-code: stages would run
   75  interrupted: run again to continue
  130  interrupted twice: ended at once";

/// Gives the program's command a help template that lists its subcommands by heading.
pub(super) fn with_headings(program: Command) -> Command {
    let (header, literal) = (*program.get_styles().get_header(), *program.get_styles().get_literal());
    let heading = |name: &str| format!("{}{name}:{}\n", header.render(), header.render_reset());
    let width = HEADINGS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut template = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (name, subcommands) in HEADINGS {
        template.push_str(&format!("\n{}", heading(name)));
        for subcommand in subcommands.iter().filter_map(|name| program.find_subcommand(name)) {
            let (name, about) = (subcommand.get_name(), subcommand.get_about().map(ToString::to_string).unwrap_or_default());
            template.push_str(&format!("  {}{name:<width$}{}  {about}\n", literal.render(), literal.render_reset()));
        }
    }
    template.push_str(&format!("\n{}{{options}}{{after-help}}", heading("Options")));
    program.help_template(template)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::program;

    #[test]
    fn every_visible_subcommand_has_one_heading() {
        let program = program();
        let mut visible: Vec<&str> = program.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect();
        let mut listed: Vec<&str> = HEADINGS.iter().flat_map(|(_, names)| *names).copied().collect();
        visible.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, visible);
    }

    #[test]
    fn the_help_lists_every_subcommand_with_what_it_does() {
        let help = program().render_help().to_string();
        for (heading, names) in HEADINGS {
            assert!(help.contains(&format!("\n{heading}:\n")), "{heading} in\n{help}");
            for name in *names {
                assert!(help.lines().any(|line| line.starts_with(&format!("  {name} "))), "{name} in\n{help}");
            }
        }
        assert!(help.contains("\nOptions:\n") && help.contains("\nExit codes:\n"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}
