//! Whether an object is still as it was applied.
//!
//! What the server returned for an apply is compared with what it shows later, in those places only that
//! were applied: defaults, statuses and other managers' fields are none of the hub's business, and a
//! quantity that the server writes in its own way is no drift.

use serde_json::{Map, Value};

/// What `shown` says in the places that `applied` has.
pub(super) fn projection(applied: &Value, shown: &Value) -> Value {
    match (applied, shown) {
        (Value::Object(applied), Value::Object(shown)) => {
            let of = |(key, applied): (&String, &Value)| {
                let shown = shown.get(key).unwrap_or(&Value::Null);
                (key.clone(), projection(applied, shown))
            };
            Value::Object(applied.iter().map(of).collect::<Map<_, _>>())
        }
        (Value::Array(applied), Value::Array(shown)) => {
            let of = |(place, applied): (usize, &Value)| {
                // One volume may be mounted in several places.
                let mut keys = ["mountPath", "name"].into_iter();
                let found = match keys.find_map(|key| Some((key, applied.get(key)?))) {
                    // Others may add entries of their own to a list whose entries have names.
                    Some((key, name)) => shown.iter().find(|entry| entry.get(key) == Some(name)),
                    None => shown.get(place),
                };
                projection(applied, found.unwrap_or(&Value::Null))
            };
            let mut found: Vec<Value> = applied.iter().enumerate().map(of).collect();
            let named = applied.iter().all(|entry| entry.get("name").is_some());
            if !named && shown.len() != applied.len() {
                found.push(Value::from(shown.len()));
            }
            Value::Array(found)
        }
        (_, shown) => shown.clone(),
    }
}
