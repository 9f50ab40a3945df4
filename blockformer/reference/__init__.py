"""The block reference and the pictures of the site: pages made from what is registered and from the recipes."""
