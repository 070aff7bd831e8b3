//! The only place that encodes or decodes what crosses the link or enters the store.
