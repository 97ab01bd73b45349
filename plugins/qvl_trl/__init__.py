"""The built-in plugin: stages on TRL and PEFT, data formats, rewards and the bundled model."""
