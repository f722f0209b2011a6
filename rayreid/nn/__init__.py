"""Parts shared by the methods: trunks, necks, losses."""
