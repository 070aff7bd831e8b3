//! Desired state read strictly from a directory of YAML.
