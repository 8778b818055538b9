//! The types that variables declare, and how values are made to fit them.
//! Knows types and values; where values come from is not its matter.

use std::collections::BTreeMap;
use std::fmt;

use hcl_edit::expr::{Expression, ObjectKey};
use impasto_stages::{Data, Value};

use super::convert::{self, show};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum VarType {
    Any,
    String,
    Number,
    Bool,
    List(Box<VarType>),
    Set(Box<VarType>),
    Map(Box<VarType>),
    Object(BTreeMap<String, Attribute>),
    Tuple(Vec<VarType>),
    /// A type that no text can name: a stage's.
    Stage,
}

/// An attribute of an object type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Attribute {
    pub(super) ty: VarType,
    /// Whether it may be left out, and what it is then.
    pub(super) optional: Option<Value>,
}

/// Why a value does not fit: the way to the part that does not, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) path: String,
    pub(super) reason: String,
}

impl VarType {
    /// Reads a type, such as `list(string)`, which stands in `text`. The error is a fragment for a message.
    pub(super) fn parse(expr: &Expression, text: &str) -> Result<VarType, String> {
        match expr {
            Expression::Variable(name) => match name.as_str() {
                "any" => Ok(VarType::Any),
                "string" => Ok(VarType::String),
                "number" => Ok(VarType::Number),
                "bool" => Ok(VarType::Bool),
                word @ ("list" | "set" | "map") => Err(format!(
                    "`{word}` needs the type of its elements: `{word}(string)`"
                )),
                word => Err(unknown(word)),
            },
            Expression::FuncCall(call) => {
                let args: Vec<&Expression> = call.args.iter().collect();
                let [arg] = args.as_slice() else {
                    return Err(format!("`{}` takes one type", call.name.name.as_str()));
                };
                match call.name.name.as_str() {
                    "list" => Ok(VarType::List(Box::new(VarType::parse(arg, text)?))),
                    "set" => Ok(VarType::Set(Box::new(VarType::parse(arg, text)?))),
                    "map" => Ok(VarType::Map(Box::new(VarType::parse(arg, text)?))),
                    "tuple" => {
                        match arg {
                            Expression::Array(items) => items
                                .iter()
                                .map(|item| VarType::parse(item, text))
                                .collect::<Result<_, _>>()
                                .map(VarType::Tuple),
                            _ => Err("`tuple` takes a list of types: `tuple([string, number])`"
                                .to_owned()),
                        }
                    }
                    "object" => object_type(arg, text),
                    "optional" => Err("`optional` is only valid in `object({…})`".to_owned()),
                    word => Err(unknown(word)),
                }
            }
            Expression::String(quoted) => {
                Err(format!("types are not quoted: write `{}`", quoted.value()))
            }
            _ => Err(unknown("this")),
        }
    }

    /// The type that a value has.
    pub(super) fn of(value: &Value) -> VarType {
        match &value.data {
            Data::Null => VarType::Any,
            Data::Bool(_) => VarType::Bool,
            Data::Number(_) => VarType::Number,
            Data::String(_) => VarType::String,
            Data::List(items) => VarType::Tuple(items.iter().map(VarType::of).collect()),
            Data::Object(items) => VarType::Object(
                items
                    .iter()
                    .map(|(key, item)| {
                        (
                            key.clone(),
                            Attribute {
                                ty: VarType::of(item),
                                optional: None,
                            },
                        )
                    })
                    .collect(),
            ),
            Data::Stage(_) | Data::StageFile { .. } => VarType::Stage,
        }
    }

    /// The type that a default asks of other values: loose about elements.
    pub(super) fn of_default(value: &Value) -> VarType {
        match &value.data {
            Data::List(_) => VarType::List(Box::new(VarType::Any)),
            Data::Object(_) => VarType::Map(Box::new(VarType::Any)),
            _ => VarType::of(value),
        }
    }

    /// Whether a text on the command line is the value itself, not an expression.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, VarType::String | VarType::Number | VarType::Bool)
    }

    /// Makes a value fit; null fits every type.
    pub(super) fn fit(&self, value: Value) -> Result<Value, Mismatch> {
        self.fit_at(value, &mut String::new())
    }

    fn fit_at(&self, value: Value, path: &mut String) -> Result<Value, Mismatch> {
        if value.data == Data::Null {
            return Ok(value);
        }
        let Value {
            data,
            marks,
            origin,
        } = value;
        let back = |data| Value {
            data,
            marks: marks.clone(),
            origin: origin.clone(),
        };
        let wrong = |value: Value, path: &str| {
            let mut reason = format!("expected {self}, found {}", show(&value));
            if let (VarType::Number, Some(why)) = (self, convert::too_long(&value)) {
                reason += &format!("; {why}");
            }
            Err(Mismatch {
                path: path.to_owned(),
                reason,
            })
        };
        let scalar = |data: Option<Data>, old: Data, path: &str| match data {
            Some(new) => Ok(back(new)),
            None => wrong(back(old), path),
        };
        match (self, data) {
            (VarType::Any, data) => Ok(back(data)),
            (VarType::String, data @ Data::String(_)) => Ok(back(data)),
            (VarType::String, data) => scalar(
                convert::to_text(&back(data.clone())).map(Data::String),
                data,
                path,
            ),
            (VarType::Number, data) => scalar(
                convert::to_number(&back(data.clone())).map(Data::Number),
                data,
                path,
            ),
            (VarType::Bool, data) => scalar(
                convert::to_bool(&back(data.clone())).map(Data::Bool),
                data,
                path,
            ),
            (VarType::List(ty), Data::List(items)) => Ok(back(Data::List(
                each(items.into_inner(), path, |_| Some(ty))?.into(),
            ))),
            (VarType::Set(ty), Data::List(items)) => {
                let items = each(items.into_inner(), path, |_| Some(ty))?;
                Ok(back(Data::List(convert::into_set(items).into())))
            }
            (VarType::Tuple(types), Data::List(items)) if types.len() != items.len() => {
                Err(Mismatch {
                    path: path.clone(),
                    reason: format!("expected {} elements, found {}", types.len(), items.len()),
                })
            }
            (VarType::Tuple(types), Data::List(items)) => Ok(back(Data::List(
                each(items.into_inner(), path, |index| types.get(index))?.into(),
            ))),
            (VarType::Map(ty), Data::Object(items)) => {
                let mut fitted = BTreeMap::new();
                for (key, item) in items.into_inner() {
                    let item = within(path, &format!("[{key:?}]"), |path| ty.fit_at(item, path))?;
                    fitted.insert(key, item);
                }
                Ok(back(Data::Object(fitted.into())))
            }
            (VarType::Object(attributes), Data::Object(items)) => {
                let mut items = items.into_inner();
                let mut fitted = BTreeMap::new();
                for (key, attribute) in attributes {
                    let item = match (items.remove(key), &attribute.optional) {
                        (
                            Some(Value {
                                data: Data::Null, ..
                            }),
                            Some(default),
                        )
                        | (None, Some(default)) => default.clone(),
                        (Some(item), _) => item,
                        (None, None) => {
                            let reason = format!("the attribute `{key}` is missing");
                            return Err(Mismatch {
                                path: path.clone(),
                                reason,
                            });
                        }
                    };
                    let item = within(path, &format!(".{key}"), |path| {
                        attribute.ty.fit_at(item, path)
                    })?;
                    fitted.insert(key.clone(), item);
                }
                if let Some(key) = items.keys().next() {
                    let near = super::suggest::nearest(key, attributes.keys().map(String::as_str));
                    let near =
                        near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    return Err(Mismatch {
                        path: path.clone(),
                        reason: format!("unknown attribute `{key}`{near}"),
                    });
                }
                Ok(back(Data::Object(fitted.into())))
            }
            (_, data) => wrong(back(data), path),
        }
    }
}

fn within<T>(path: &mut String, step: &str, run: impl FnOnce(&mut String) -> T) -> T {
    let length = path.len();
    path.push_str(step);
    let result = run(path);
    path.truncate(length);
    result
}

fn each<'t>(
    items: Vec<Value>,
    path: &mut String,
    ty: impl Fn(usize) -> Option<&'t VarType>,
) -> Result<Vec<Value>, Mismatch> {
    let mut fitted = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let ty = ty(index).unwrap_or(&VarType::Any);
        fitted.push(within(path, &format!("[{index}]"), |path| {
            ty.fit_at(item, path)
        })?);
    }
    Ok(fitted)
}

fn unknown(word: &str) -> String {
    let known = [
        "string", "number", "bool", "any", "list", "set", "map", "object", "tuple",
    ];
    let near = super::packer::type_word(word).or_else(|| super::suggest::nearest(word, known));
    match near {
        Some(near) => format!("`{word}` is not a valid type; did you mean `{near}`?"),
        None => format!(
            "`{word}` is not a valid type; valid types are string, number, bool, any, list(…), set(…), map(…), \
             object({{…}}) and tuple([…])"
        ),
    }
}

fn object_type(arg: &Expression, text: &str) -> Result<VarType, String> {
    let Expression::Object(items) = arg else {
        return Err(
            "`object` takes attributes and their types: `object({ name = string })`".to_owned(),
        );
    };
    let mut attributes = BTreeMap::new();
    for (key, value) in items.iter() {
        let key = match key {
            ObjectKey::Ident(name) => name.as_str().to_owned(),
            ObjectKey::Expression(Expression::String(name)) => name.value().clone(),
            ObjectKey::Expression(_) => {
                return Err("an attribute of an object type needs a plain name".to_owned());
            }
        };
        let attribute = match value.expr() {
            Expression::FuncCall(call) if call.name.name.as_str() == "optional" => {
                let args: Vec<&Expression> = call.args.iter().collect();
                let (ty, default) = match args.as_slice() {
                    [ty] => (VarType::parse(ty, text)?, Value::new(Data::Null)),
                    [ty, default] => (VarType::parse(ty, text)?, literal(default, text)?),
                    _ => return Err("`optional` takes a type and an optional default".to_owned()),
                };
                let default = ty
                    .fit(default)
                    .map_err(|mismatch| format!("the default of `{key}`: {}", mismatch.reason))?;
                Attribute {
                    ty,
                    optional: Some(default),
                }
            }
            other => Attribute {
                ty: VarType::parse(other, text)?,
                optional: None,
            },
        };
        attributes.insert(key, attribute);
    }
    Ok(VarType::Object(attributes))
}

/// A default within a type: a literal.
fn literal(expr: &Expression, text: &str) -> Result<Value, String> {
    Ok(match expr {
        Expression::Null(_) => Value::new(Data::Null),
        Expression::Bool(truth) => convert::truth(*truth.value()),
        Expression::Number(number) => convert::number(super::lower::number_of(number, text)?),
        Expression::String(quoted) => Value::string(quoted.value().as_str()),
        Expression::Array(items) => convert::list(
            items
                .iter()
                .map(|item| literal(item, text))
                .collect::<Result<_, _>>()?,
        ),
        Expression::Object(items) => {
            let mut all = BTreeMap::new();
            for (key, value) in items.iter() {
                let key = match key {
                    ObjectKey::Ident(name) => name.as_str().to_owned(),
                    ObjectKey::Expression(Expression::String(name)) => name.value().clone(),
                    ObjectKey::Expression(_) => {
                        return Err("the default of `optional` must be a literal".to_owned());
                    }
                };
                all.insert(key, literal(value.expr(), text)?);
            }
            convert::object(all)
        }
        _ => return Err("the default of `optional` must be a literal".to_owned()),
    })
}

impl fmt::Display for VarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VarType::Any => f.write_str("any"),
            VarType::String => f.write_str("string"),
            VarType::Number => f.write_str("number"),
            VarType::Bool => f.write_str("bool"),
            VarType::List(ty) => write!(f, "list({ty})"),
            VarType::Set(ty) => write!(f, "set({ty})"),
            VarType::Map(ty) => write!(f, "map({ty})"),
            VarType::Tuple(types) => {
                f.write_str("tuple([")?;
                for (index, ty) in types.iter().enumerate() {
                    write!(f, "{}{ty}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("])")
            }
            VarType::Object(attributes) => {
                f.write_str("object({ ")?;
                for (index, (key, attribute)) in attributes.iter().enumerate() {
                    write!(
                        f,
                        "{}{key} = {}",
                        if index == 0 { "" } else { ", " },
                        attribute.ty
                    )?;
                }
                f.write_str(" })")
            }
            VarType::Stage => f.write_str("stage"),
        }
    }
}
