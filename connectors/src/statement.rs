//! SQL from files: placeholders filled, comments left out, names and texts quoted.

/// The statement of `template` with `{name}` replaced by its value, without comment lines and the last semicolon.
/// Values are put in as they are: they come from [`identifier`], [`text`] or this program.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let lines: Vec<&str> = template.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let mut left = lines.join("\n");
    let mut filled = String::with_capacity(left.len());
    while let Some((before, after)) = left.split_once('{') {
        filled.push_str(before);
        let value = after.split_once('}').and_then(|(name, rest)| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value, rest))
        });
        match value {
            Some((value, rest)) => {
                filled.push_str(value);
                left = rest.to_owned();
            }
            None => {
                filled.push('{');
                left = after.to_owned();
            }
        }
    }
    filled.push_str(&left);
    filled.trim().trim_end_matches(';').to_owned()
}

/// The statements of a file, one ending in a semicolon at the end of a line.
pub fn each(template: &str, values: &[(&str, &str)]) -> Vec<String> {
    fill(template, values)
        .split(";\n")
        .map(|one| one.trim().to_owned())
        .filter(|one| !one.is_empty())
        .collect()
}

/// A name in double quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes. Backslashes mean something in some dialects and settings: what has one is not for this.
pub fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Whether a value can stand between quotes in every dialect as it is.
pub fn is_plain(value: &str) -> bool {
    !value.chars().any(|c| c.is_control() || matches!(c, '\'' | '"' | '\\' | '{' | '}' | ';' | '$'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in_once_and_comments_left_out() {
        let template = "-- what it does\nSELECT '{\"a\": 1}' FROM {table}\nWHERE x = {x};\n";
        let filled = fill(template, &[("table", "\"t\""), ("x", "'{table}'")]);
        assert_eq!(filled, "SELECT '{\"a\": 1}' FROM \"t\"\nWHERE x = '{table}'");
        assert_eq!(each("A {x};\nB;\n", &[("x", "1")]), ["A 1", "B"]);
        assert_eq!((identifier("a\"b").as_str(), text("it's").as_str()), ("\"a\"\"b\"", "'it''s'"));
    }
}
