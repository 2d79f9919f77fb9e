ALTER TABLE logs_local ON CLUSTER '{cluster}' DROP INDEX IF EXISTS message;
