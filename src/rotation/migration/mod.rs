//! Migrations as customers see them: the letters that tell them, and what their MX records say.

mod adoption;
mod due;
mod letter;
mod mailer;
mod survey;
#[cfg(test)]
mod tests;

pub(super) use mailer::Mailer;
pub use survey::Surveyor;
