//! A wire: two ports and what lies between.
