//! What can be wrong with a stage's parameters beyond their types.
//! Knows parameters' names; the recipe knows where they stand.

/// A parameter's value, or a combination of parameters, that the kind cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParamError {
    /// The parameter that it is about; the stage as a whole where there is none.
    pub param: Option<&'static str>,
    /// The entry of that parameter's map that it is about.
    pub entry: Option<String>,
    /// What is wrong, as a lower-case fragment.
    pub message: String,
    pub help: Option<String>,
}

impl ParamError {
    /// An error about one parameter.
    pub fn new(param: &'static str, message: impl Into<String>) -> Self {
        ParamError {
            param: Some(param),
            entry: None,
            message: message.into(),
            help: None,
        }
    }

    /// An error about the stage as a whole.
    pub fn stage(message: impl Into<String>) -> Self {
        ParamError {
            param: None,
            entry: None,
            message: message.into(),
            help: None,
        }
    }

    pub fn entry(mut self, entry: impl Into<String>) -> Self {
        self.entry = Some(entry.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
