//! Functions between types.

use impasto_stages::{Data, Value};

use super::{Fail, Function, FunctionBody, exactly, function, wrong};
use crate::recipe::convert::{into_set, list, number, to_bool, to_number, to_text, truth};
use crate::recipe::types::VarType;

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "can",
        signature: "can(expression)",
        help: "Whether an expression can be evaluated.",
        min: 1,
        max: Some(1),
        structural: true,
        cost: super::no_cost,
        run: FunctionBody::Can,
    },
    // The second argument is a type, not a value: the call is taken apart before it comes here.
    function(
        "convert",
        "convert(value, type)",
        exactly(2),
        "A value converted to a type, such as list(string).",
        |_| {
            Err(Fail::arg(
                1,
                "a type is needed, such as `string` or `list(string)`",
            ))
        },
    ),
    function(
        "tobool",
        "tobool(value)",
        exactly(1),
        "A value converted to a boolean.",
        |args| {
            keep_null(args, |args| {
                to_bool(&args[0])
                    .map(truth)
                    .ok_or_else(|| wrong(args, 0, "true or false"))
            })
        },
    ),
    function(
        "tolist",
        "tolist(value)",
        exactly(1),
        "A value converted to a list.",
        |mut args| match args[0].data {
            Data::List(_) | Data::Null => Ok(args.swap_remove(0)),
            _ => Err(wrong(&args, 0, "a list")),
        },
    )
    .structural(),
    function(
        "tomap",
        "tomap(value)",
        exactly(1),
        "A value converted to a map.",
        |mut args| match args[0].data {
            Data::Object(_) | Data::Null => Ok(args.swap_remove(0)),
            _ => Err(wrong(&args, 0, "an object")),
        },
    )
    .structural(),
    function(
        "tonumber",
        "tonumber(value)",
        exactly(1),
        "A value converted to a number.",
        |args| {
            keep_null(args, |args| {
                to_number(&args[0])
                    .map(number)
                    .ok_or_else(|| wrong(args, 0, "a number"))
            })
        },
    ),
    function(
        "toset",
        "toset(value)",
        exactly(1),
        "A list's elements, sorted and without duplicates.",
        |mut args| match std::mem::replace(&mut args[0].data, Data::Null) {
            Data::List(items) => Ok(list(into_set(items.into_inner()))),
            Data::Null => Ok(Value::new(Data::Null)),
            other => {
                args[0].data = other;
                Err(wrong(&args, 0, "a list"))
            }
        },
    )
    .costs(super::cost_of_all),
    function(
        "tostring",
        "tostring(value)",
        exactly(1),
        "A value converted to a string.",
        |args| {
            keep_null(args, |args| {
                to_text(&args[0])
                    .map(Value::string)
                    .ok_or_else(|| wrong(args, 0, "a string"))
            })
        },
    ),
    Function {
        name: "try",
        signature: "try(expressions...)",
        help: "The first expression that can be evaluated.",
        min: 1,
        max: None,
        structural: true,
        cost: super::no_cost,
        run: FunctionBody::Try,
    },
    function(
        "type",
        "type(value)",
        exactly(1),
        "The name of a value's type.",
        |args| Ok(Value::string(VarType::of(&args[0]).to_string())),
    )
    .structural()
    .costs(super::cost_of_all),
];

fn keep_null(
    args: Vec<Value>,
    run: impl Fn(&[Value]) -> Result<Value, Fail>,
) -> Result<Value, Fail> {
    if args[0].data == Data::Null {
        Ok(Value::new(Data::Null))
    } else {
        run(&args)
    }
}
