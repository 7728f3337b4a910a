//! Plain-text tables with three aligned columns.

/// Formats rows of three cells: the first two columns are padded to their widest cell.
pub(super) fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a str, String)>) -> String {
    let rows: Vec<_> = rows.collect();
    let width = |of: fn(&(&str, &str, String)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (first, second) = (width(|row| row.0.chars().count()), width(|row| row.1.chars().count()));
    rows.iter().map(|(stage, word, text)| format!("{}\n", format!("  {stage:<first$}  {word:<second$}  {text}").trim_end())).collect()
}
