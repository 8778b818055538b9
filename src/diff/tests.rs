//! A rich case, made by hand, and how it is shown.
