//! Engine, wires and policy put together.
