"""Certificates, enrolments and who may issue them."""
