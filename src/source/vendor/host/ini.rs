//! Values out of the settings files of pip and npm, and logins out of netrc.
//! Knows their form, not what they mean.

use crate::net::Login;

/// The value of a name in the first of these sections that has it. Before the first header is the section "".
pub(super) fn value(text: &str, sections: &[&str], name: &str) -> Option<String> {
    find(text, sections, |key| key == name)
}

/// The same by pip's rules: `-` and `_` are one, and lines that begin with a blank go on.
pub(super) fn pip_value(text: &str, sections: &[&str], name: &str) -> Option<String> {
    find(text, sections, |key| key.replace('_', "-") == name)
}

fn find(text: &str, sections: &[&str], is: impl Fn(&str) -> bool) -> Option<String> {
    let mut found: Vec<(String, String)> = Vec::new();
    let (mut section, mut continues) = (String::new(), false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some((_, last)) = found.last_mut().filter(|_| continues)
            && line.starts_with([' ', '\t'])
        {
            last.push(' ');
            last.push_str(trimmed);
            continue;
        }
        if let Some(name) = trimmed
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            (section, continues) = (name.to_owned(), false);
            continue;
        }
        continues = false;
        if let Some((key, value)) = trimmed.split_once('=')
            && is(key.trim())
        {
            found.push((section.clone(), value.trim().trim_matches('"').to_owned()));
            continues = true;
        }
    }
    let of = |section: &&str| {
        let value = found.iter().rev().find(|(of, _)| of == section);
        value.map(|(_, value)| value.trim().to_owned())
    };
    sections
        .iter()
        .find_map(of)
        .filter(|value| !value.is_empty())
}

/// Replaces `${NAME}` by what `variable` has for it, as npm does.
pub(super) fn expand<'v>(text: &str, variable: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else {
            break;
        };
        out += before;
        match variable(name) {
            Some(value) => out += value,
            None => out += &format!("${{{name}}}"),
        }
        rest = tail;
    }
    out + rest
}

/// The login of a netrc file for a host, or its default.
pub(super) fn netrc(text: &str, host: &str) -> Option<Login> {
    let mut words = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace);
    let (mut ours, mut user, mut password) = (false, None, None);
    let login = |user: &mut Option<String>, password: &mut Option<String>| {
        Some(Login::Password {
            user: user.take()?,
            password: password.take()?,
        })
    };
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" => {
                if ours && user.is_some() && password.is_some() {
                    break;
                }
                ours = word == "default" || words.next() == Some(host);
            }
            "login" => user = words.next().filter(|_| ours).map(str::to_owned).or(user),
            "password" => {
                password = words
                    .next()
                    .filter(|_| ours)
                    .map(str::to_owned)
                    .or(password)
            }
            _ => {}
        }
    }
    login(&mut user, &mut password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_section_and_name() {
        let text = "# pip\n[global]\nindex_url = https://one.example/simple\nextra-index-url =\n    https://a.example\n    \
                    https://b.example\n[install]\nindex-url = https://two.example/simple\n";
        let pip = |sections: &[&str], name: &str| pip_value(text, sections, name);
        assert_eq!(
            pip(&["install", "global"], "index-url").as_deref(),
            Some("https://two.example/simple")
        );
        assert_eq!(
            pip(&["global"], "index-url").as_deref(),
            Some("https://one.example/simple")
        );
        assert_eq!(
            pip(&["global"], "extra-index-url").as_deref(),
            Some("https://a.example https://b.example")
        );
        assert_eq!(pip(&["download"], "index-url"), None);
        let npmrc = "registry=https://npm.example/\n@own:registry = https://own.example\n//own.example/:_authToken=${TOKEN}";
        let npm = |name: &str| value(npmrc, &[""], name);
        assert_eq!(npm("@own:registry").as_deref(), Some("https://own.example"));
        let token = npm("//own.example/:_authToken").unwrap();
        assert_eq!(
            expand(&token, |name| (name == "TOKEN").then_some("s3cret")),
            "s3cret"
        );
        assert_eq!(expand(&token, |_| None), "${TOKEN}");
    }

    #[test]
    fn a_login_is_that_of_its_host() {
        let text = "machine a.example login me password one\n\nmachine b.example\n  login you\n  password two\n";
        let login = |host: &str| match netrc(text, host) {
            Some(Login::Password { user, password }) => format!("{user}:{password}"),
            _ => String::new(),
        };
        assert_eq!(login("a.example"), "me:one");
        assert_eq!(login("b.example"), "you:two");
        assert_eq!(login("c.example"), "");
    }
}
