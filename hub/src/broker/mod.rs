//! The embedded MQTT broker, and the connection to an external one.
