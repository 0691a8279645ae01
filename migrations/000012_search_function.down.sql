drop function search_faces(
  uuid, integer[], vector[], bit[], integer, text, double precision, double precision, boolean, boolean, numeric, integer,
  text, bytea, bytea, interval
);
