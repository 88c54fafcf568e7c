//! Migrations as customers see them: the letters that tell them, and what their MX records say.

mod letter;
mod mailer;
mod survey;

pub(super) use mailer::Mailer;
pub use survey::Surveyor;
