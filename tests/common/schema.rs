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

/// Checks that the tables of `text` document each field and each word of `schema`, both files of `docs/`. A row is about what
/// its first cell names. The fields inside of that are named in the row, or have rows of their own (`latency_us.never`).
#[track_caller]
pub fn check_documented(schema: &str, text: &str) {
    let (schema, text): (Value, String) = (serde_json::from_str(&read(schema)).unwrap(), read(text));
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let is_named = |name: &str| rows.iter().any(|row| row.contains(&format!("`{name}`")));
    let about =
        |start: &str| rows.iter().filter(|row| row.split('|').nth(1).unwrap().contains(start)).collect::<Vec<_>>();
    // What is defined once and used in several places is documented once, under the name of the definition.
    let definitions = schema["$defs"].as_object().into_iter().flatten().map(|(name, schema)| (name.clone(), schema));
    let mut left: Vec<(String, &Value)> = definitions.chain([(String::new(), &schema)]).collect();
    while let Some((path, schema)) = left.pop() {
        for word in schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(is_named(word), "{path}: {word} is not documented");
        }
        if !schema["items"].is_null() {
            left.push((path.clone(), &schema["items"]));
        }
        let Some(fields) = schema["properties"].as_object() else { continue };
        // An object without required fields is a map, whose keys are words.
        let required: Option<Vec<_>> =
            schema["required"].as_array().map(|names| names.iter().filter_map(Value::as_str).collect());
        for (name, field) in fields {
            let Some(required) = &required else {
                assert!(is_named(name), "{path}: {name} is not documented");
                continue;
            };
            assert!(required.contains(&name.as_str()), "{path}: {name} is always there, but not required");
            let full = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let has_rows = !about(&format!("`{full}`")).is_empty() || !about(&format!("`{full}.")).is_empty();
            let is_in_a_row = full.match_indices('.').any(|(dot, _)| {
                about(&format!("`{}`", &full[..dot])).iter().any(|row| row.contains(&format!("`{name}`")))
            });
            assert!(has_rows || is_in_a_row, "{full} is not documented");
            left.push((full, field));
        }
    }
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
