//! What a customer reads, and that nothing in it is taken for markup.
