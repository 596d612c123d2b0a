mod addresses;
mod hints;
mod settings;
