"""Who is mentioned where: entity mentions with exact offsets, from Wikipedia dumps or any documents."""
