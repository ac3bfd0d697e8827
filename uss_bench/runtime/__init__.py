"""What any long program needs: files whole or absent, named random draws, a team that shares the work."""
