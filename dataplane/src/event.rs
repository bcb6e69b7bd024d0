//! What the engine tells control.
