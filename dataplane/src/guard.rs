//! What an endpoint may say of itself.
