//! As much of JSON Schema as the schemas in `docs/` use.

use serde_json::Value;

/// A file of `docs/`.
fn read(file: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Checks `value` against the schema in this file of `docs/`.
#[track_caller]
pub fn check_against(file: &str, value: &Value) {
    let schema: Value = serde_json::from_str(&read(file)).unwrap();
    check(value, &schema, &schema, "report");
}

fn check(value: &Value, schema: &Value, root: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return check(value, root.pointer(&name[1..]).unwrap(), root, at);
    }
    if let Some(options) = schema["enum"].as_array() {
        assert!(options.contains(value), "{at}: {value} is none of {options:?}");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(|name| name.as_str().unwrap()).collect(),
        Value::String(name) => vec![name.as_str()],
        _ => Vec::new(),
    };
    let fits = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        other => panic!("{other} is not known here"),
    };
    assert!(types.is_empty() || types.into_iter().any(fits), "{at}: {value} is not {}", schema["type"]);
    if let Some(object) = value.as_object() {
        let properties =
            schema["properties"].as_object().unwrap_or_else(|| panic!("{at}: its fields are not in the schema"));
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(object.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
        }
        for (name, value) in object {
            let schema = properties.get(name).unwrap_or_else(|| panic!("{at}: {name} is not in the schema"));
            check(value, schema, root, &format!("{at}.{name}"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(item, &schema["items"], root, &format!("{at}[{index}]"));
    }
}
