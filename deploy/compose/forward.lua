-- Each image that came in goes on to the triage, at once: nobody has to wait until a study seems complete.
function OnStoredInstance(instanceId, tags, metadata, origin)
  if tags['Modality'] == 'CR' or tags['Modality'] == 'DX' then
    SendToModality(instanceId, 'triage')
  end
end
