"""What `import pathline` offers: the steps of the commands, with PIL images and exceptions."""
