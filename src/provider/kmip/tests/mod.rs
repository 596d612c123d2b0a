mod addresses;
mod settings;
