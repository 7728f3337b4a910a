//! Which files of a `code` folder are code: what interpreters, editors and version control leave there is not, nor is what `ignore` names.

use glob::{MatchOptions, Pattern};

/// What programs leave in a folder of source code without being asked, as patterns of `ignore`.
pub(super) const LITTER: [&str; 29] = [
    // Interpreters and their tools.
    "__pycache__/",
    "*.pyc",
    "*.pyo",
    "*$py.class",
    ".ipynb_checkpoints/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".Rhistory",
    // Version control; `.git` is a file in a submodule.
    ".git",
    ".hg/",
    ".svn/",
    ".jj/",
    // Editors: swap, backup, lock and settings files.
    "*.swp",
    "*.swo",
    ".*.sw[a-z]",
    "*~",
    ".#*",
    "#*#",
    "*.kate-swp",
    "4913",
    ".idea/",
    ".vscode/",
    // File managers and network file systems.
    ".DS_Store",
    "._*",
    "Thumbs.db",
    ".directory",
    ".nfs*",
];

/// How names are matched: `*` stays within a folder's name, and a leading dot is nothing special.
const OPTIONS: MatchOptions = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// Whether a path in a code folder, without a trailing `/`, counts as code. The last pattern that matches decides; `!` takes one back.
pub(super) fn counts(path: &str, is_folder: bool, ignore: &[String]) -> bool {
    let user = ignore.iter().rev().find_map(|pattern| decides(pattern, path, is_folder));
    let decision = user.or_else(|| LITTER.iter().rev().find_map(|pattern| decides(pattern, path, is_folder)));
    decision.unwrap_or(true)
}

/// Whether a pattern says that a path counts; none if it does not match.
fn decides(pattern: &str, path: &str, is_folder: bool) -> Option<bool> {
    let (pattern, taken_back) = pattern.strip_prefix('!').map_or((pattern, false), |pattern| (pattern, true));
    let (pattern, folders_only) = pattern.strip_suffix('/').map_or((pattern, false), |pattern| (pattern, true));
    if folders_only && !is_folder {
        return None;
    }
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let matches = match pattern.strip_prefix('/') {
        Some(anchored) => matches(anchored, path),
        None if pattern.contains('/') => matches(pattern, path),
        None => matches(pattern, name),
    };
    matches.then_some(taken_back)
}

fn matches(pattern: &str, text: &str) -> bool {
    let plain = !pattern.contains(['*', '?', '[']);
    if plain { pattern == text } else { Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_with(text, OPTIONS)) }
}

/// What is wrong with a pattern, if anything.
pub(super) fn mistake(pattern: &str) -> Option<String> {
    let bare = pattern.strip_prefix('!').unwrap_or(pattern);
    if bare.trim_matches('/').trim().is_empty() {
        return Some(format!("`{pattern}` names nothing"));
    }
    if bare.split('/').any(|part| part == ".." || part == ".") {
        return Some(format!("`{pattern}` contains `.` or `..`, but patterns are matched inside the folders of `code`"));
    }
    Pattern::new(bare).err().map(|error| format!("`{pattern}` is not a valid pattern: {}", error.msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_decide_as_those_of_git() {
        let ignore = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        let rows: [(&[&str], &str, bool, bool); 24] = [
            (&[], "main.py", false, true),
            (&[], "lib/main.pyc", false, false),
            (&[], "lib/__pycache__", true, false),
            (&[], "__pycache__", false, true),
            (&[], ".git", true, false),
            (&[], ".git", false, false),
            (&[], ".gitignore", false, true),
            (&[], "deep/.main.py.swp", false, false),
            (&[], ".main.py.swx", false, false),
            (&[], "main.py~", false, false),
            (&[], ".#main.py", false, false),
            (&[], "#main.py#", false, false),
            (&[], "#notes", false, true),
            (&["*.log"], "a/b.log", false, false),
            (&["*.log", "!keep.log"], "a/keep.log", false, true),
            (&["!*.pyc"], "only.pyc", false, true),
            (&["/out"], "out", true, false),
            (&["/out"], "a/out", true, true),
            (&["a/*.txt"], "a/x.txt", false, false),
            (&["a/*.txt"], "a/b/x.txt", false, true),
            (&["a/**/x.txt"], "a/b/c/x.txt", false, false),
            (&["data/"], "data", false, true),
            (&["data/"], "a/data", true, false),
            (&["[invalid"], "[invalid", false, true),
        ];
        for (patterns, path, is_folder, expected) in rows {
            assert_eq!(counts(path, is_folder, &ignore(patterns)), expected, "{patterns:?} on {path}");
        }
        for (pattern, is_wrong) in [("*.log", false), ("!a/", false), ("", true), ("/", true), ("!", true), ("../x", true), ("[x", true)] {
            assert_eq!(mistake(pattern).is_some(), is_wrong, "{pattern}");
        }
        assert!(LITTER.iter().all(|pattern| mistake(pattern).is_none()));
    }
}
