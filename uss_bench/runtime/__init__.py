"""What any long program needs: files that are whole or absent, named random draws, a team that shares the work."""
