//! `fetch` with `git`: which commit, and what of it.
//! Knows parameters; asks no repository.

use super::{TOLD, is_below, not_below};
use crate::action::{ActionTemplate, Step};
use crate::error::ParamError;
use crate::params::Params;
use crate::registry::Lowered;
use crate::source::SourceRequest;

/// A commit of a git repository.
pub(super) fn repository(
    git: &str,
    params: &Params,
    mut action: ActionTemplate,
    mut errors: Vec<ParamError>,
) -> Result<Lowered, Vec<ParamError>> {
    for name in [
        "checksum",
        "mirrors",
        "signed_by",
        "redirects",
        "ignore",
        "strip",
        "root",
        "as",
    ] {
        if params
            .get(name)
            .is_some_and(|_| name != "as" || params.text("as") != Some("tree"))
        {
            let error = ParamError::new(name, format!("`{name}` does not go with `git`"));
            errors.push(error.help(format!(
                "remove `{name}`: a commit says which files it has, and they are a tree"
            )));
        }
    }
    if let Some((scheme, rest)) = git.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        let secret = host
            .split_once('@')
            .is_some_and(|(user, _)| scheme != "ssh" || user.contains(':'));
        if !matches!(scheme, "https" | "http" | "ssh") || host.is_empty() || host.starts_with('-') {
            let error = ParamError::new("git", format!("{git:?} is not an https, http or ssh URL"));
            errors.push(error.help("for a repository of this machine write its path"));
        } else if secret {
            let error = ParamError::new("git", "its URL contains a user name or password");
            errors.push(error.help("use ssh://git@HOST/PATH with a key of your own"));
        }
    } else if git
        .split('/')
        .next()
        .is_some_and(|first| first.contains(':'))
    {
        let error = ParamError::new("git", format!("{git:?} is neither a URL nor a path"));
        errors.push(error.help("write it as ssh://USER@HOST/PATH"));
    }
    let subdirectory = params.text("subdirectory").unwrap_or_default();
    if !is_below(subdirectory) {
        errors.push(not_below(subdirectory));
    }
    let reference = params.text("ref");
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('-')
            && !name.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c))
    };
    if let Some(name) = reference.filter(|name| !plain(name)) {
        let error = ParamError::new(
            "ref",
            format!("{name:?} is not the name of a branch or tag"),
        );
        errors.push(
            error.help("write it as `git branch` or `git tag` shows it; for a commit use `commit`"),
        );
    }
    let commit = params.text("commit").map(str::to_ascii_lowercase);
    let is_commit = |text: &String| {
        matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    if let Some(commit) = commit.as_ref().filter(|commit| !is_commit(commit)) {
        let error = ParamError::new("commit", format!("{commit:?} is not a commit"));
        errors.push(error.help("write all of its digits, as `git rev-parse NAME` prints them"));
    }
    if commit.is_some() && reference.is_some() {
        let error = ParamError::new("ref", "both `ref` and `commit` are set");
        errors.push(error.help("remove one of them"));
    }
    action.kind_version = TOLD;
    action.hints.urls = vec![git.to_owned()];
    if commit.is_none() {
        let reference = reference.map(str::to_owned);
        action.hints.source = Some(SourceRequest::Git { reference });
    }
    action.steps.push(Step::FetchGit {
        commit: commit.unwrap_or_default(),
        subdirectory: subdirectory.trim_end_matches('/').to_owned(),
        submodules: params.flag("submodules"),
    });
    match errors.is_empty() {
        true => Ok(Lowered {
            actions: vec![action],
            ..Lowered::default()
        }),
        false => Err(errors),
    }
}

#[cfg(test)]
mod tests {
    use super::super::KIND;
    use super::*;
    use crate::registry::StageContext;
    use crate::value::Value;

    fn lowered(params: &[(&str, &str)]) -> Result<Lowered, Vec<ParamError>> {
        let pair = |(name, text): &(&str, &str)| ((*name).to_owned(), Value::string(*text));
        let params = Params(params.iter().map(pair).collect());
        (KIND.lower)(&params, &StageContext::default())
    }

    #[test]
    fn a_commit_needs_no_lock_and_a_name_does() {
        let commit = "0123456789abcdef0123456789ABCDEF01234567";
        let git = ("git", "https://h/team/app.git");
        let known = lowered(&[git, ("commit", commit)]).unwrap();
        assert_eq!(known.actions[0].hints.source, None);
        let expected = Step::FetchGit {
            commit: commit.to_lowercase(),
            subdirectory: String::new(),
            submodules: false,
        };
        assert_eq!(known.actions[0].steps, [expected]);
        let open = lowered(&[git, ("ref", "stable/1.0")]).unwrap();
        let hints = &open.actions[0].hints;
        let lines = hints.source.as_ref().unwrap().lines(&hints.urls[0]);
        assert_eq!(lines, ["git https://h/team/app.git", "ref stable/1.0"]);
    }

    #[test]
    fn what_names_no_repository_is_refused() {
        let git = ("git", "app");
        for (param, params) in [
            ("git", &[("git", "ext::sh -c true")][..]),
            ("git", &[("git", "file:///srv/app")]),
            ("git", &[("git", "https://me:secret@h/app")]),
            ("git", &[("git", "git@h:app.git")]),
            ("git", &[("git", "https://--upload-pack=x/app")]),
            ("ref", &[git, ("ref", "--upload-pack=x")]),
            ("ref", &[git, ("ref", "a b")]),
            ("commit", &[git, ("commit", "abcdef")]),
            ("checksum", &[git, ("checksum", "sha256:x")]),
            ("subdirectory", &[git, ("subdirectory", "../x")]),
            ("git", &[git, ("url", "https://h/a")]),
        ] {
            let errors = lowered(params).unwrap_err();
            assert_eq!(errors[0].param, Some(param), "{params:?}: {errors:?}");
        }
    }
}
